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
          job.lease_epoch, job.priority, extract(epoch FROM job.run_after)::float8 AS due_s, job.limit_key,
          CASE WHEN job.tags IS NULL AND job.timeout_s IS NULL AND job.trace IS NULL
                    AND job.kills = 0 AND job.reclaims < 2 AND NOT job.suspect THEN NULL
               ELSE json_build_object('tags', coalesce(job.tags, '{}'), 'timeout_s', job.timeout_s,
                    'trace', job.trace, 'kills', job.kills, 'alone', job.suspect OR job.kills > 0 OR job.reclaims >= 2)::text
          END AS rare
