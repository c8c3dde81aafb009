-- quarantine: running jobs are held back with their reason until they are released; no attempt is burnt.
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[] with reason, worker_id uuid
-- gives   rows (id, asked: somebody asked for its cancellation); those whose lease was lost are missing
-- index   queue_jobs_pkey, job_minutes_pkey; sub-selects and CASE hide from the planner how many jobs run, which its
--         statistics misjudge, and ANY (ARRAY[…]) leaves it no join but the one probe per job
WITH held AS (
    UPDATE queue_jobs AS job
    SET status = 'quarantined', last_error = back.error, worker_id = NULL, updated_at = sf_now()
    FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::jsonb[])) AS back (id, lease_epoch, error)
    WHERE job.id = ANY (ARRAY[back.id])
      AND CASE WHEN job.status = 'running' AND job.worker_id = $4
               AND job.lease_epoch = back.lease_epoch THEN true ELSE false END
    RETURNING job.id, job.queue, job.type, job.cancel_reason IS NOT NULL AS asked
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, quarantined)
    SELECT date_trunc('minute', sf_now()), queue, type, $4, count(*) FROM held GROUP BY queue, type ORDER BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE SET quarantined = job_minutes.quarantined + excluded.quarantined
)
SELECT id, asked FROM held
