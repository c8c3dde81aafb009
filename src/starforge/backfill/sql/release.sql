-- release: a coordinator lets go of a backfill that is paused, or stops.                                           (B-17)
-- takes   id uuid, worker_id uuid, lease_epoch bigint
-- gives   nothing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs SET worker_id = NULL, updated_at = sf_now() WHERE id = $1 AND worker_id = $2 AND lease_epoch = $3
