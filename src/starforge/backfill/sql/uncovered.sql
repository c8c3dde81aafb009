-- uncovered: the places of an asset that no backfill has completed.                          (B-67)
-- takes   tenant_id text, asset_name text, wanted int8multirange, whether keys are ranges as 1..50000 boolean: such a
--         partition covers its range, any other one its ordinal
-- gives   one row (backfills: how many live or completed ones there are of it, or were, missing int8multirange)
-- index   backfill_jobs_asset, backfill_partitions_pkey of those that are not wholly completed, backfill_made_pkey
WITH made AS (
    SELECT id, covers, state = 'completed' AND failed_partitions = 0 AND cancelled_partitions = 0 AS whole
    FROM backfill_jobs
    WHERE tenant_id = $1 AND asset_name = $2
), single AS (
    SELECT p.ordinal, p.partition_key AS key
    FROM made
    JOIN backfill_partitions AS p ON p.backfill_job_id = made.id
    WHERE NOT made.whole AND made.covers && $3::int8multirange AND p.state = 'completed'
      AND ($4::boolean OR p.ordinal >= lower($3::int8multirange)) AND p.ordinal < upper($3::int8multirange)
    UNION ALL
    SELECT ordinal, partition_key
    FROM backfill_made
    WHERE tenant_id = $1 AND asset_name = $2
      AND ($4::boolean OR ordinal >= lower($3::int8multirange)) AND ordinal < upper($3::int8multirange)
), covered AS (
    SELECT unnest(covers) AS places FROM made WHERE whole AND covers && $3::int8multirange
    UNION ALL
    SELECT int8range(ordinal, CASE WHEN $4::boolean THEN regexp_replace(key, '^.*\.\.', '')::bigint ELSE ordinal END, '[]')
    FROM single
)
SELECT (SELECT count(*)::int FROM made)
           + (SELECT count(*)::int FROM (SELECT FROM backfill_made WHERE tenant_id = $1 AND asset_name = $2 LIMIT 1) AS one) AS backfills,
       $3::int8multirange - coalesce((SELECT range_agg(places) FROM covered), '{}'::int8multirange) AS missing
