-- in_hand: how many partitions of a backfill run now.                                             (B-44, B-70)
-- takes   backfill_job_id uuid, tenant_id text
-- gives   one row (count)
-- index   backfill_partitions_pkey
SELECT count(*)::int FROM backfill_partitions WHERE backfill_job_id = $1 AND tenant_id = $2 AND state = 'running'
