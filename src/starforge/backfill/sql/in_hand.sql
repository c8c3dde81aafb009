-- in_hand: how many partitions of a backfill run now.                                             (B-44, B-70)
-- takes   backfill_job_id uuid, tenant_id text
-- gives   one row (count); those whose job waits, as after the end of a worker, do not run
-- index   backfill_partitions_pkey, queue_jobs_pkey
SELECT count(*)::int
FROM backfill_partitions AS p
WHERE p.backfill_job_id = $1 AND p.tenant_id = $2 AND p.state = 'running'
  AND EXISTS (SELECT FROM queue_jobs AS j WHERE j.id = p.queue_job_id AND j.status = 'running')
