-- freeze: some partitions of a backfill that is being created.                               (B-05, D-14)
-- takes   backfill_job_id uuid, tenant_id text, keys text[], ordinals bigint[], canary bool[]
-- gives   nothing
-- index   backfill_partitions_pkey is added to at its end: partitions come in the order of their ordinals
INSERT INTO backfill_partitions (backfill_job_id, tenant_id, partition_key, ordinal, is_canary)
SELECT $1, $2, key, ordinal, canary
FROM unnest($3::text[], $4::bigint[], $5::bool[]) AS listed (key, ordinal, canary)
