-- return: a stopping worker gives back the jobs it had not finished; no attempt is burnt.           (G2)
-- takes   ids uuid[], lease epochs bigint[], worker_id uuid
-- gives   the ids that were accepted
-- index   queue_jobs_pkey
UPDATE queue_jobs AS job
SET status = 'pending', worker_id = NULL, lease_epoch = job.lease_epoch + 1, updated_at = sf_now()
FROM unnest($1::uuid[], $2::bigint[]) AS back (id, lease_epoch)
WHERE job.id = back.id AND job.status = 'running' AND job.worker_id = $3
  AND job.lease_epoch = back.lease_epoch
RETURNING job.id
