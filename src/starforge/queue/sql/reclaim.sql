-- reclaim: running jobs whose worker holds no lease any more are pending again.                (G2, G5, D-12)
-- takes   nothing
-- gives   rows (id, type, queue) of what was reclaimed
-- index   none: a scan of the hot table, once per lease time or when a worker was found dead; an index on
--         running rows would cost every claim and every completion
UPDATE queue_jobs AS job
SET status = 'pending', worker_id = NULL, lease_epoch = job.lease_epoch + 1, updated_at = sf_now()
WHERE job.status = 'running'
  AND NOT EXISTS (
      SELECT 1 FROM workers w
      WHERE w.id = job.worker_id AND w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now())
RETURNING job.id, job.type, job.queue
