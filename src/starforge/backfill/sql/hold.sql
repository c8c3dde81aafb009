-- hold: the row of a backfill, locked for its coordinator while it is its coordinator.                             (D-12, G7)
-- takes   id uuid, worker_id uuid, lease_epoch bigint, heartbeat_at timestamptz (as it was last seen)
-- gives   one row, or none: somebody changed heartbeat or epoch, and the lease is over; an error where somebody holds the
--         row now, for others are not to wait for that
-- index   backfill_jobs_pkey
SELECT tenant_id, asset_name, job_type, state, version, priority, concurrency, attempts_max, failed_max, total_partitions,
       completed_partitions, failed_partitions, cancelled_partitions, canary_partitions, canary_judged_at, checkpoint_ordinal,
       paused_at, pace, pace_reason, eta_state, look, avg_partition_duration_ms,
       extract(epoch FROM sf_now() - paused_at)::float8 AS paused_s
FROM backfill_jobs
WHERE id = $1 AND worker_id = $2 AND lease_epoch = $3 AND heartbeat_at = $4
FOR NO KEY UPDATE NOWAIT
