-- integrity_seen: a backfill's partitions as its checkpoint is held against them.                 (B-35, B-70)
-- takes   backfill_job_id uuid, tenant_id text
-- gives   rows (key, state, again) in the declared order
-- index   backfill_partitions_pkey
SELECT partition_key AS key, state, reopened_at IS NOT NULL AS again
FROM backfill_partitions
WHERE backfill_job_id = $1 AND tenant_id = $2
ORDER BY ordinal
