-- jobs_archived: the newest archived dead letters that fit: their jobs have left the queue.       (D-19)
-- takes   queue text, type text, state text that is not looked at, tag text, each or null; most int
-- gives   rows, the newest letter first
-- index   queue_jobs_dlq_created, queue_jobs_dlq_type, queue_jobs_pkey
SELECT original_job_id AS id, tenant_id AS tenant, queue, type, 'archived' AS state, priority, attempts, max_attempts,
       NULL::timestamptz AS run_after, job_created_at AS created_at, archived_at AS ended_at, tags, reason AS error
FROM queue_jobs_dlq AS letter
WHERE archived_at IS NOT NULL AND NOT EXISTS (SELECT FROM queue_jobs j WHERE j.id = letter.original_job_id)
  AND ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR $3 = 'archived')
  AND ($4::text IS NULL OR tags @> ARRAY[$4])
ORDER BY created_at DESC
LIMIT $5::int
