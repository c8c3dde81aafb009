-- job_state: one job as it is now, live or in history.
-- takes   job id uuid
-- gives   one row, or none; the result as text of JSON
-- index   queue_jobs_pkey, job_progress_pkey, job_history_id on each partition
SELECT job.id, job.type, job.queue, job.status, job.attempts, job.max_attempts, job.run_after, job.created_at,
       NULL::timestamptz AS completed_at,
       coalesce(job.last_error ->> 'reason', job.last_error #>> '{}') AS reason, NULL::text AS result,
       job.cancel_reason IS NOT NULL AS cancelling, said.done, said.total, said.message
FROM queue_jobs AS job
LEFT JOIN job_progress AS said ON said.job_id = job.id
WHERE job.id = $1
UNION ALL
SELECT id, type, queue, status, attempts, max_attempts, run_after, created_at, completed_at,
       CASE WHEN status = 'cancelled' THEN reason END, result::text, false, NULL, NULL, NULL
FROM job_history
WHERE id = $1
LIMIT 1
