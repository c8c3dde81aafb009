-- heartbeat: the coordinator lives; a heartbeat that somebody else changed, or an epoch that is over, ends its lease.  (D-12)
-- takes   id uuid, worker_id uuid, lease_epoch bigint, heartbeat_at timestamptz (as it was last seen)
-- gives   one row (heartbeat_at, state, version, concurrency, priority, attempts_max, failed_max), or none: the lease is over
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET heartbeat_at = sf_now()
WHERE id = $1 AND worker_id = $2 AND lease_epoch = $3 AND heartbeat_at = $4
RETURNING heartbeat_at, state, version, concurrency, priority, attempts_max, failed_max
