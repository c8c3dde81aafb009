-- lock_one: a backfill, locked for the change that follows.                                       (B-47, B-70)
-- takes   id uuid, tenant_id text
-- gives   one row, or none where the tenant has no such backfill
-- index   backfill_jobs_pkey; locked as an update does, so that rows which refer to it can be written meanwhile
SELECT id, asset_name AS asset, job_type, state, version, priority, concurrency, attempts_max, failed_max, sla_at,
       total_partitions AS total, completed_partitions AS completed, failed_partitions AS failed,
       checkpoint_partition_key AS checkpoint, paused_at, resume_at, completed_at, error_message,
       state_by, state_reason, changed, extract(epoch FROM sf_now() - heartbeat_at)::float8 AS heartbeat_age_s, sf_now() AS now
FROM backfill_jobs
WHERE id = $1 AND tenant_id = $2
FOR NO KEY UPDATE
