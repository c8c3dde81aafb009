-- past_durations: how long partitions of an asset took in its last backfills.                (B-67)
-- takes   tenant_id text, asset_name text, backfills int, partitions of each int
-- gives   one row (partitions, median_ms, p90_ms); the last two are null where there is none
-- index   backfill_jobs_asset, backfill_partitions_pkey
WITH recent AS (
    SELECT id FROM backfill_jobs WHERE tenant_id = $1 AND asset_name = $2 ORDER BY created_at DESC LIMIT $3
)
SELECT count(*)::int AS partitions,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS median_ms,
       percentile_cont(0.9) WITHIN GROUP (ORDER BY duration_ms) AS p90_ms
FROM recent
CROSS JOIN LATERAL (
    SELECT duration_ms
    FROM backfill_partitions
    WHERE backfill_job_id = recent.id AND state = 'completed' AND duration_ms IS NOT NULL
    ORDER BY ordinal DESC
    LIMIT $4
) AS each
