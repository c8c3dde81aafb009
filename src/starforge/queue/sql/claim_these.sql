-- claim_these: pending jobs of these ids become a worker's, also where their queue or type is paused.     (O-23, F-33)
-- takes   ids uuid[], types text[] that the worker knows, n int, worker_id uuid, due ids uuid[]: those of the ids whose
--         time must have come; the others start at once
-- gives   rows as claim does; none where the worker's own lease has ended
-- index   queue_jobs_pkey
UPDATE queue_jobs AS job
SET status = 'running', worker_id = $4, lease_epoch = job.lease_epoch + 1, updated_at = sf_now()
WHERE job.ctid = ANY (ARRAY (
    SELECT j.ctid FROM queue_jobs j
    WHERE j.id = ANY ($1::uuid[]) AND j.type = ANY ($2::text[]) AND j.status = 'pending'
      AND (j.run_after <= sf_now() OR j.id <> ALL ($5::uuid[]))
      AND EXISTS (SELECT 1 FROM workers w WHERE w.id = $4 AND w.state = 'running' AND w.lease_expires_at > sf_now())
    ORDER BY j.priority DESC, j.run_after
    LIMIT $3
    FOR UPDATE SKIP LOCKED
))
RETURNING job.id, job.tenant_id, job.queue, job.type, job.payload::text, job.attempts, job.max_attempts,
          job.lease_epoch, job.priority, date_part('epoch', job.run_after) AS due_s, job.limit_key,
          job.tags, job.timeout_s, job.trace,
          CASE WHEN job.kills > 0 OR job.reclaims >= 2 OR job.suspect THEN job.kills END AS deaths
