-- feed: the next partitions to be done, in their declared order.                                             (B-17, B-24)
-- takes   backfill_job_id uuid, after bigint, most integer
-- gives   rows (ordinal, partition_key, attempt_count, reopened)
-- index   backfill_partitions_pkey
SELECT ordinal, partition_key, attempt_count, reopened_at IS NOT NULL AS reopened FROM backfill_partitions
WHERE backfill_job_id = $1 AND ordinal > $2 AND state = 'pending'
ORDER BY ordinal LIMIT $3
