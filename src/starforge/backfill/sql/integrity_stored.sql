-- integrity_stored: what a backfill's row says of its partitions.                                 (B-35, B-70)
-- takes   id uuid, tenant_id text
-- gives   one row, or none where the tenant has no such backfill
-- index   backfill_jobs_pkey
SELECT checkpoint_partition_key AS checkpoint, total_partitions AS total, completed_partitions AS completed,
       failed_partitions AS failed
FROM backfill_jobs
WHERE id = $1 AND tenant_id = $2
