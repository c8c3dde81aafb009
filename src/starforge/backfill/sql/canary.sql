-- canary: how the canary of a backfill went.                                                                      (B-67)
-- takes   backfill_job_id uuid
-- gives   one row (open, failed, keys of some that failed text[])
-- index   backfill_partitions_canary
SELECT count(*) FILTER (WHERE state IN ('pending', 'running')) AS open, count(*) FILTER (WHERE state = 'failed') AS failed,
       (array_agg(partition_key ORDER BY ordinal) FILTER (WHERE state = 'failed'))[1:3] AS keys
FROM backfill_partitions WHERE backfill_job_id = $1 AND is_canary
