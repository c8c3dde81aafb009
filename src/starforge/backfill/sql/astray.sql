-- astray: partitions of a backfill that run by their row, and by no job of the queue.                              (B-35)
-- takes   backfill_job_id uuid, tenant_id text
-- gives   one row (count, some keys in their order)
-- index   backfill_partitions_pkey, all of the backfill's rows; queue_jobs_pkey
SELECT count(*) AS count, (array_agg(p.partition_key ORDER BY p.ordinal))[1:5] AS keys
FROM backfill_partitions AS p
WHERE p.backfill_job_id = $1 AND p.tenant_id = $2 AND p.state = 'running'
  AND NOT EXISTS (SELECT FROM queue_jobs AS j WHERE j.id = p.queue_job_id AND j.status IN ('pending', 'running'))
