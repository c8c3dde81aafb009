-- reclaim: running jobs whose worker holds no lease any more are pending again.                (G2, G5, D-12)
--          What becomes of a worker that died where somebody saw it is told by `blame`; here nobody knows why the lease
--          ended, save where the worker stopped in order. No attempt is burnt; it is counted, and after the second
--          time the job is run alone
-- takes   nothing
-- gives   rows (id, asked: somebody asked for its cancellation) of what was reclaimed
-- index   none: a scan of the hot table, when a worker was found dead, and now and then; an index on
--         running rows would cost every claim and every completion. As in the claim, what was locked is updated by
--         its place: a row that somebody holds or has changed meanwhile is left for the next sweep, so that no
--         stranger's lock stops a supervisor and no job that was just claimed anew is taken away
UPDATE queue_jobs AS job
SET status = 'pending', worker_id = NULL, lease_epoch = job.lease_epoch + 1, updated_at = sf_now(),
    reclaims = CASE WHEN EXISTS (SELECT 1 FROM workers w WHERE w.id = job.worker_id AND w.state = 'stopped')
                    THEN job.reclaims ELSE least(job.reclaims + 1, 100) END
WHERE job.ctid = ANY (ARRAY (
    SELECT j.ctid FROM queue_jobs j
    WHERE j.status = 'running'
      AND NOT EXISTS (
          SELECT 1 FROM workers w
          WHERE w.id = j.worker_id AND w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now())
    FOR UPDATE OF j SKIP LOCKED
))
RETURNING job.id, job.cancel_reason IS NOT NULL AS asked
