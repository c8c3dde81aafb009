-- jobs_ended: the newest completed or cancelled jobs that fit.                                     (D-19)
-- takes   queue text, type text, status text, tag text, each or null; most int
-- gives   rows, the newest id first
-- index   job_history_id of each partition, backwards
SELECT id, tenant_id AS tenant, queue, type, status AS state, priority, attempts, max_attempts, run_after, created_at,
       completed_at AS ended_at, tags, coalesce(reason, last_error ->> 'reason') AS error
FROM job_history
WHERE ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR status = $3)
  AND ($4::text IS NULL OR tags @> ARRAY[$4])
ORDER BY id DESC
LIMIT $5::int
