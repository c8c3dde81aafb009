-- poison_of: the poison rows of a backfill, by their keys.
-- takes   backfill_job_id uuid, after bigint or null: rows above this key, most int
-- gives   rows (row_key, asset_name, ordinal, partition_key, error_type, error_message, fingerprint, created_at)
-- index   backfill_poison_pkey, backfill_partitions_pkey
SELECT q.row_key, q.asset_name, q.ordinal, p.partition_key, q.error_type, q.error_message, q.fingerprint, q.created_at
FROM backfill_poison AS q
LEFT JOIN backfill_partitions AS p ON p.backfill_job_id = q.backfill_job_id AND p.ordinal = q.ordinal
WHERE q.backfill_job_id = $1 AND q.row_key >= CASE WHEN $2::bigint IS NULL THEN '-9223372036854775808' ELSE $2 END AND q.row_key IS DISTINCT FROM $2
ORDER BY q.row_key
LIMIT $3
