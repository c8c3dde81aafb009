-- plan_partitions: some of the partitions of a new backfill, in their declared order.                              (B-05)
-- takes   backfill_job_id uuid, tenant_id text, keys text[], ordinals bigint[], canary boolean[]
-- gives   nothing
-- index   backfill_partitions_pkey
INSERT INTO backfill_partitions (backfill_job_id, tenant_id, partition_key, ordinal, is_canary)
SELECT $1, $2, planned.key, planned.ordinal, planned.canary
FROM unnest($3::text[], $4::bigint[], $5::boolean[]) AS planned (key, ordinal, canary)
