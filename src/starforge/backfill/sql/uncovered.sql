-- uncovered: the places of an asset that no backfill has completed.                          (B-67)
-- takes   tenant_id text, asset_name text, wanted int8multirange
-- gives   one row (backfills: how many live or completed ones there are of it, missing int8multirange)
-- index   backfill_jobs by its few rows, backfill_partitions_pkey of those that are not wholly completed
WITH made AS (
    SELECT id, covers, state = 'completed' AND failed_partitions = 0 AND cancelled_partitions = 0 AS whole
    FROM backfill_jobs
    WHERE tenant_id = $1 AND asset_name = $2
), covered AS (
    SELECT unnest(covers) AS places FROM made WHERE whole
    UNION ALL
    SELECT int8range(p.ordinal, p.ordinal + 1)
    FROM made
    JOIN backfill_partitions AS p ON p.backfill_job_id = made.id
    WHERE NOT made.whole AND made.covers && $3::int8multirange AND p.state = 'completed'
)
SELECT (SELECT count(*)::int FROM made) AS backfills,
       $3::int8multirange - coalesce((SELECT range_agg(places) FROM covered), '{}'::int8multirange) AS missing
