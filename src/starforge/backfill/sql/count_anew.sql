-- count_anew: the counters of a backfill are made to say what its partitions say: somebody changed one of them by hand.  (B-35)
-- takes   id uuid
-- gives   one row (completed_partitions, failed_partitions, cancelled_partitions), or none: they said it, or a row of
--         backfill_ended waits to be counted
-- index   backfill_jobs_pkey, backfill_partitions_pkey
UPDATE backfill_jobs AS b
SET completed_partitions = c.completed, failed_partitions = c.failed, cancelled_partitions = c.cancelled,
    total_partitions = c.total, updated_at = sf_now()
FROM (SELECT count(*) AS total, count(*) FILTER (WHERE state = 'completed') AS completed,
             count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'cancelled') AS cancelled
      FROM backfill_partitions WHERE backfill_job_id = $1) AS c
WHERE b.id = $1 AND NOT EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = $1)
  AND (b.completed_partitions, b.failed_partitions, b.cancelled_partitions, b.total_partitions)
      IS DISTINCT FROM (c.completed, c.failed, c.cancelled, c.total)
RETURNING b.completed_partitions, b.failed_partitions, b.cancelled_partitions
