-- chosen: partitions of a backfill in some states, for a new one.                                 (B-43, B-44, B-70)
-- takes   backfill_job_id uuid, tenant_id text, states text[], fingerprint text or null
-- gives   rows (partition_key, ordinal), in the declared order
-- index   backfill_partitions_pkey
SELECT partition_key, ordinal FROM backfill_partitions
WHERE backfill_job_id = $1 AND tenant_id = $2 AND state = ANY ($3::text[]) AND ($4::text IS NULL OR fingerprint = $4)
ORDER BY ordinal
