-- minutes_sample: the depth of every queue and type at this minute, where none was taken yet.     (Q-03, Q-07, Q-08, Q-13)
-- takes   nothing
-- gives   nothing; the row of queue '' and type '' says that the minute was sampled
-- index   none: it counts the hot table, once a minute
WITH depth AS (
    SELECT queue, type, count(*) AS jobs, extract(epoch FROM sf_now() - min(run_after))::float8 AS oldest_s
    FROM queue_jobs
    WHERE status = 'pending' AND run_after <= sf_now()
    GROUP BY queue, type
), sample AS (
    SELECT queue, type, jobs, oldest_s FROM depth
    UNION ALL
    SELECT '', '', coalesce(sum(jobs), 0), max(oldest_s) FROM depth
)
INSERT INTO job_minutes AS m (minute, queue, type, worker_id, depth, oldest_s)
SELECT date_trunc('minute', sf_now()), queue, type, '00000000-0000-0000-0000-000000000000', jobs, oldest_s
FROM sample
ORDER BY queue, type
ON CONFLICT (minute, queue, type, worker_id) DO UPDATE SET depth = excluded.depth, oldest_s = excluded.oldest_s
