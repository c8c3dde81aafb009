-- lock_live: a tenant's live backfills in some states, locked for the change that follows.        (F-24, F-25, B-70)
-- takes   tenant_id text, states text[], asset_name text or null, paused_with text or null: those that this operation paused,
--         most int
-- gives   rows (id, asset, job_type, state, version, total), in the order of ids, so that no two such acts wait in a circle
-- index   backfill_jobs_live; live backfills are few
SELECT id, asset_name AS asset, job_type, state, version, total_partitions AS total
FROM backfill_jobs
WHERE tenant_id = $1 AND state = ANY ($2::text[]) AND state IN ('pending', 'running', 'paused', 'resuming')
  AND ($3::text IS NULL OR asset_name = $3)
  AND ($4::text IS NULL OR changed ->> 'paused_with' = $4)
ORDER BY id
LIMIT $5
FOR NO KEY UPDATE
