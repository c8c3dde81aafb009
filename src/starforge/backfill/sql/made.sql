-- made: for each partition of an asset, when it was completed last, and by which code.
-- takes   tenant_id text, asset_name text, stretches of backfills: ids uuid[], their first ordinals bigint[] and the
--         ordinals behind their last bigint[]; first and end bigint: of what backfills that are forgotten made
-- gives   rows (ordinal, key, completed_s: seconds since 1970, code_version), by their ordinals; of one that was completed
--         several times the last
-- index   backfill_partitions_pkey, backfill_made_pkey
SELECT DISTINCT ON (ordinal, key) ordinal, key, extract(epoch FROM completed_at)::float8 AS completed_s, code_version
FROM (
    SELECT p.ordinal, p.partition_key AS key, coalesce(p.completed_at, p.updated_at) AS completed_at, p.code_version
    FROM unnest($3::uuid[], $4::bigint[], $5::bigint[]) AS stretch (id, first, behind)
    CROSS JOIN LATERAL (SELECT * FROM backfill_partitions AS each
                        WHERE each.backfill_job_id = stretch.id AND each.tenant_id = $1
                          AND each.ordinal >= stretch.first AND each.ordinal < stretch.behind AND each.state = 'completed'
                        OFFSET 0) AS p
    UNION ALL
    SELECT ordinal, partition_key, completed_at, code_version
    FROM backfill_made
    WHERE tenant_id = $1 AND asset_name = $2 AND ordinal >= $6 AND ordinal < $7
) AS found
ORDER BY ordinal, key, completed_at DESC
