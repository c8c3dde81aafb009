-- untold: the oldest kill that the job's own type has not heard of.                                      (O-48, F-02)
-- takes   types text[] that the caller knows
-- gives   one row: the kill, and what is left of its job, locked until the caller has told; none where all were told
-- index   job_kills_untold, queue_jobs_pkey, job_history_id
SELECT k.id, k.job_id, k.tenant_id, k.type, k.worker_id, k.lease_epoch, k.verdict, k.cause, k.evidence,
       job.payload::text AS payload, coalesce(job.queue, '') AS queue, coalesce(job.attempts, 0) AS attempts,
       coalesce(job.max_attempts, 1) AS max_attempts, coalesce(job.kills, 0) AS kills
FROM job_kills k
LEFT JOIN LATERAL (
    SELECT j.payload, j.queue, j.attempts, j.max_attempts, j.kills FROM queue_jobs j WHERE j.id = k.job_id
    UNION ALL
    SELECT h.payload, h.queue, h.attempts, h.max_attempts, h.kills FROM job_history h WHERE h.id = k.job_id
    LIMIT 1) AS job ON true
WHERE k.told_at IS NULL AND k.type = ANY ($1::text[])
ORDER BY k.created_at
LIMIT 1
FOR UPDATE OF k SKIP LOCKED
