-- waiting: the partitions of a backfill whose jobs wait in the queue, and how long the last of those that failed waits.
-- takes   job type text, limit key text
-- gives   rows (ordinal, retry_in_s or null)
-- index   queue_jobs_lane
SELECT (payload ->> 'ordinal')::bigint AS ordinal,
       CASE WHEN attempts > 0 THEN extract(epoch FROM run_after - sf_now())::float8 END AS retry_in_s
FROM queue_jobs
WHERE status = 'pending' AND queue = 'backfill' AND type = $1 AND limit_key = $2
