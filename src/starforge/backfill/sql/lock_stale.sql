-- lock_stale: a tenant's backfills in a state whose heartbeat is older than an age, locked.       (B-51, B-52, D-11, B-70)
-- takes   tenant_id text, state text, age_s float8, most int
-- gives   rows (id, asset, state, version), in the order of ids; without a heartbeat its last change counts; what waits for its upstream is
--         not stale
-- index   backfill_jobs_live
SELECT id, asset_name AS asset, state, version
FROM backfill_jobs AS b
WHERE tenant_id = $1 AND state = $2 AND state IN ('running', 'resuming')
  AND coalesce(heartbeat_at, updated_at) < sf_now() - make_interval(secs => $3)
  AND NOT EXISTS (SELECT FROM backfill_jobs AS u WHERE u.id = ANY (b.waits_for) AND u.state <> 'completed')
ORDER BY id
LIMIT $4
FOR NO KEY UPDATE
