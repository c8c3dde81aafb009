-- checkpoint: a running job keeps a value for its next attempt, under its lease.
-- takes   job id uuid, lease epoch bigint, value text of JSON, worker_id uuid
-- gives   one row (job_id), or none when the lease was lost
-- index   queue_jobs_pkey, job_progress_pkey
INSERT INTO job_progress (job_id, tenant_id, lease_epoch, checkpoint, updated_at)
SELECT id, tenant_id, lease_epoch, $3::text::jsonb, sf_now()
FROM queue_jobs
WHERE id = $1 AND status = 'running' AND worker_id = $4 AND lease_epoch = $2
ON CONFLICT (job_id) DO UPDATE
SET lease_epoch = excluded.lease_epoch, checkpoint = excluded.checkpoint, updated_at = excluded.updated_at
WHERE job_progress.lease_epoch <= excluded.lease_epoch
RETURNING job_id
