-- made: for each partition of an asset, when it was completed last, and by which code.
-- takes   tenant_id text, asset_name text
-- gives   rows (key, completed_at in seconds, code_version), in the declared order
-- index   backfill_partitions_pkey, all rows of the asset's backfills
SELECT DISTINCT ON (p.ordinal) p.partition_key AS key, extract(epoch FROM p.completed_at)::float8 AS completed_s, p.code_version
FROM backfill_jobs AS b
JOIN backfill_partitions AS p ON p.backfill_job_id = b.id
WHERE b.tenant_id = $1 AND b.asset_name = $2 AND p.state = 'completed'
ORDER BY p.ordinal, p.completed_at DESC
