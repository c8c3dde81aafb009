-- job: one job wherever it is now: the queue, else its history, else the dead letters.            (D-19)
-- takes   id uuid, whether its payload is wanted bool
-- gives   one row, or none where there is no such job
-- index   queue_jobs_pkey, job_history_id, queue_jobs_dlq_once
WITH place AS (
    SELECT 1 AS place, id, tenant_id, queue, type,
           CASE WHEN status <> 'pending' THEN status WHEN attempts > 0 THEN 'retry'
                WHEN run_after > sf_now() THEN 'scheduled' ELSE 'pending' END AS state,
           priority, attempts, max_attempts, kills, run_after, last_error, worker_id, created_at, limit_key, tags, timeout_s, trace,
           CASE WHEN status = 'running' THEN updated_at END AS started_at, NULL::timestamptz AS ended_at, NULL::real AS ran_ms,
           cancel_reason AS reason, NULL::jsonb AS result, payload
    FROM queue_jobs WHERE id = $1::uuid
    UNION ALL
    SELECT 2, id, tenant_id, queue, type, status, priority, attempts, max_attempts, kills, run_after, last_error, worker_id,
           created_at, NULL, tags, NULL, trace, started_at, completed_at, ran_ms, reason, result, payload
    FROM job_history WHERE id = $1::uuid
    UNION ALL
    SELECT 3, original_job_id, tenant_id, queue, type, CASE WHEN archived_at IS NULL THEN 'failed' ELSE 'archived' END,
           priority, attempts, max_attempts, kills, NULL, last_error, worker_id, job_created_at, limit_key, tags, timeout_s, trace,
           NULL, coalesce(archived_at, created_at), NULL, reason, NULL, payload
    FROM queue_jobs_dlq WHERE original_job_id = $1::uuid
)
SELECT place.id, place.tenant_id AS tenant, queue, type, state, priority, attempts, max_attempts, kills, run_after, created_at,
       started_at, ended_at, ran_ms, limit_key, tags, timeout_s, trace, place.worker_id, reason,
       last_error::text AS last_error, result::text AS result, octet_length(payload::text) AS payload_bytes,
       CASE WHEN $2::bool THEN payload::text END AS payload,
       progress.done, progress.total, progress.message
FROM place LEFT JOIN job_progress AS progress ON progress.job_id = place.id AND place.place = 1
ORDER BY place, ended_at DESC
LIMIT 1
