-- waiting: the partitions of a backfill whose jobs wait in the queue, and for how long those that failed or were put off.
-- takes   job type text, limit key text
-- gives   rows (ordinal, retry_in_s or null)
-- index   queue_jobs_lane
SELECT (payload ->> 'ordinal')::bigint AS ordinal,
       CASE WHEN attempts > 0 OR run_after > sf_now() THEN extract(epoch FROM run_after - sf_now())::float8 END AS retry_in_s
FROM queue_jobs
WHERE status = 'pending' AND queue = 'backfill' AND type = $1 AND limit_key = $2
