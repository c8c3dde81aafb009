-- partitions: a backfill's partitions in their order, a page of them.                                    (B-33, B-70)
-- takes   backfill_job_id uuid, state text or null, after_ordinal bigint or null, most int
-- gives   rows (key, ordinal, state, attempts, error, fingerprint, started_at, completed_at, duration_ms, canary)
-- index   backfill_partitions_pkey, from the place behind which it goes on: a CASE, for by row security no coalesce is trusted
--         with an index
SELECT partition_key AS key, ordinal, state, attempt_count AS attempts, error_message AS error, fingerprint,
       started_at, completed_at, duration_ms, is_canary AS canary
FROM backfill_partitions
WHERE backfill_job_id = $1 AND tenant_id = sf_tenant() AND ($2::text IS NULL OR state = $2)
  AND ordinal >= CASE WHEN $3::bigint IS NULL THEN '-9223372036854775808' ELSE $3 END AND ordinal IS DISTINCT FROM $3
ORDER BY ordinal
LIMIT $4::int
