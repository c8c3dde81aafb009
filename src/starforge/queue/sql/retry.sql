-- retry: running jobs that failed wait for their next attempt, and are counted.                              (X-03, D-12, G3)
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[], delays float8[] in seconds, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey, job_minutes_pkey; sub-selects and CASE hide from the planner what its statistics misjudge: how many
--         jobs run, so that it never leaves the one probe per job
WITH again AS (
    UPDATE queue_jobs AS job
    SET status = 'pending', attempts = job.attempts + 1, last_error = failed.error, worker_id = NULL, suspect = false,
        run_after = sf_now() + make_interval(secs => failed.delay_s), updated_at = sf_now()
    FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::jsonb[]), (SELECT $4::float8[])) AS failed (id, lease_epoch, error, delay_s)
    WHERE job.id = failed.id
      AND CASE WHEN job.status = 'running' AND job.worker_id = $5
               AND job.lease_epoch = failed.lease_epoch THEN true ELSE false END
    RETURNING job.id, job.queue, job.type
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, retried)
    SELECT date_trunc('minute', sf_now()), queue, type, $5, count(*) FROM again GROUP BY queue, type ORDER BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE SET retried = job_minutes.retried + excluded.retried
)
SELECT id FROM again
