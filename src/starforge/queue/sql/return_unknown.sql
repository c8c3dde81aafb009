-- return_unknown: a worker gives back the jobs that are its by the database's word alone.                     (G2)
-- takes   ids uuid[] that it knows of, worker_id uuid
-- gives   rows (id, asked: somebody asked for its cancellation) of those that were given back
-- index   none: a scan of the hot table, a few times after the database failed the worker
UPDATE queue_jobs AS job
SET status = 'pending', worker_id = NULL, lease_epoch = job.lease_epoch + 1, updated_at = sf_now()
WHERE job.status = 'running' AND job.worker_id = $2 AND job.id <> ALL ($1::uuid[])
RETURNING job.id, job.cancel_reason IS NOT NULL AS asked
