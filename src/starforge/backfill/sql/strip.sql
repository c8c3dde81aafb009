-- strip: the partitions of a backfill by their place, in so many parts of about equal size.
-- takes   backfill_job_id uuid, total integer, parts integer
-- gives   rows (part from 0, completed, failed, cancelled), without what has ended and is yet to be counted
-- index   backfill_partitions_pkey; reads all of them: once for each coordinator that has no stored one
SELECT (place * $3 / $2)::int AS part, count(*) FILTER (WHERE state = 'completed') AS completed,
       count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'cancelled') AS cancelled
FROM (SELECT ordinal, state, row_number() OVER (ORDER BY ordinal) - 1 AS place FROM backfill_partitions WHERE backfill_job_id = $1)
     AS placed
WHERE NOT EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = $1 AND e.ordinal = placed.ordinal AND e.outcome <> 'retried')
GROUP BY 1 ORDER BY 1
