-- fail: running jobs whose last attempt failed stay as failed, with a row each in the dead letters. (Q-50, D-19)
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[] with reason, worker_id uuid
-- gives   rows (id, asked: somebody asked for its cancellation); those whose lease was lost are missing
-- index   queue_jobs_pkey; sub-selects and CASE hide from the planner how many jobs run, which its statistics misjudge,
--         and ANY (ARRAY[…]) leaves it no join but the one probe per job, queue_jobs_dlq_once, job_minutes_pkey
WITH given_up AS (
    UPDATE queue_jobs AS job
    SET status = 'failed', attempts = job.attempts + 1, last_error = failed.error, updated_at = sf_now()
    FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::jsonb[])) AS failed (id, lease_epoch, error)
    WHERE job.id = ANY (ARRAY[failed.id])
      AND CASE WHEN job.status = 'running' AND job.worker_id = $4
               AND job.lease_epoch = failed.lease_epoch THEN true ELSE false END
    RETURNING job.*
), dead AS (
    INSERT INTO queue_jobs_dlq (original_job_id, generation, tenant_id, queue, type, payload, reason, original_status,
                                last_error, priority, attempts, max_attempts, kills, worker_id, job_created_at, limit_key, tags,
                                timeout_s, trace)
    SELECT id, lease_epoch, tenant_id, queue, type, payload, coalesce(last_error ->> 'reason', 'failed'), 'running',
           last_error, priority, attempts, max_attempts, kills, worker_id, created_at, limit_key, tags, timeout_s, trace
    FROM given_up WHERE cancel_reason IS NULL
    ON CONFLICT ON CONSTRAINT queue_jobs_dlq_once DO NOTHING
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, failed)
    SELECT date_trunc('minute', sf_now()), queue, type, $4, count(*) FROM given_up GROUP BY queue, type ORDER BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE SET failed = job_minutes.failed + excluded.failed
)
SELECT id, cancel_reason IS NOT NULL AS asked FROM given_up
