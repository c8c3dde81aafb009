-- feed_canary: the next partitions of the canary to be done, in their declared order.                             (B-67)
-- takes   backfill_job_id uuid, after bigint, most integer
-- gives   rows (ordinal, partition_key, attempt_count, reopened)
-- index   backfill_partitions_canary
SELECT ordinal, partition_key, attempt_count, reopened_at IS NOT NULL AS reopened FROM backfill_partitions
WHERE backfill_job_id = $1 AND is_canary AND ordinal > $2 AND state = 'pending'
ORDER BY ordinal LIMIT $3
