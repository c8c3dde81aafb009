-- quarantine: running jobs are held back with their reason until they are released; no attempt is burnt.
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[] with reason, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey
UPDATE queue_jobs AS job
SET status = 'quarantined', last_error = held.error, worker_id = NULL, updated_at = sf_now()
FROM unnest($1::uuid[], $2::bigint[], $3::jsonb[]) AS held (id, lease_epoch, error)
WHERE job.id = held.id AND job.status = 'running' AND job.worker_id = $4
  AND job.lease_epoch = held.lease_epoch
RETURNING job.id
