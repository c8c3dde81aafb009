-- these: what became of some jobs, wherever they are now.                                            (O-23, F-33)
-- takes   ids uuid[]
-- gives   a row per job that is known (id, type, status, worker_id, reason)
-- index   queue_jobs_pkey, job_history_id
SELECT id, type, status, worker_id,
       CASE jsonb_typeof(last_error) WHEN 'object' THEN last_error ->> 'reason'
                                     WHEN 'string' THEN last_error #>> '{}' END AS reason
FROM queue_jobs WHERE id = ANY ($1::uuid[])
UNION ALL
SELECT id, type, status, worker_id, reason FROM job_history WHERE id = ANY ($1::uuid[])
