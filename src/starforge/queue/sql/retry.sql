-- retry: running jobs wait for their next attempt; those that burn one are counted.                    (X-03, D-12, G3)
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[] (null keeps the last), delays float8[] in seconds, times
--         timestamptz[] (null: after the delay), burns smallint[] (1: an attempt is burnt, 0: none, -1: none, but only
--         so many times in a row), worker_id uuid, how many times int
-- gives   rows (id, asked: somebody asked for its cancellation); those whose lease was lost are missing
-- index   queue_jobs_pkey, job_minutes_pkey; sub-selects and CASE hide from the planner how many jobs run, which its
--         statistics misjudge, and ANY (ARRAY[…]) leaves it no join but the one probe per job
WITH again AS (
    UPDATE queue_jobs AS job
    SET status = 'pending', worker_id = NULL, suspect = false, reclaims = 0, updated_at = sf_now(),
        run_after = greatest(sf_now(), coalesce(back.at, sf_now() + make_interval(secs => back.delay_s))),
        attempts = job.attempts + CASE
            WHEN back.burns >= 0 THEN back.burns
            WHEN jsonb_typeof(job.last_error -> 'spared') = 'number' AND (job.last_error -> 'spared')::numeric >= $8 THEN 1
            ELSE 0 END,
        last_error = CASE
            WHEN back.error IS NULL THEN job.last_error
            WHEN back.burns >= 0 THEN back.error
            WHEN jsonb_typeof(job.last_error -> 'spared') = 'number'
            THEN back.error || jsonb_build_object('spared', (job.last_error -> 'spared')::numeric + 1)
            ELSE back.error || '{"spared": 1}' END
    FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::jsonb[]), (SELECT $4::float8[]),
                (SELECT $5::timestamptz[]), (SELECT $6::smallint[])) AS back (id, lease_epoch, error, delay_s, at, burns)
    WHERE job.id = ANY (ARRAY[back.id])
      AND CASE WHEN job.status = 'running' AND job.worker_id = $7
               AND job.lease_epoch = back.lease_epoch THEN true ELSE false END
    RETURNING job.id, job.queue, job.type, back.burns, job.cancel_reason IS NOT NULL AS asked
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, retried)
    SELECT date_trunc('minute', sf_now()), queue, type, $7, count(*) FROM again WHERE burns = 1
    GROUP BY queue, type ORDER BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE SET retried = job_minutes.retried + excluded.retried
)
SELECT id, asked FROM again
