-- lock_due: paused backfills whose planned time to go on has come, of every tenant, locked.            (B-12)
-- takes   most int, not these uuid[]
-- gives   rows (id, tenant_id, asset, planned_by, resume_at); those that somebody holds are left for the next look
-- index   backfill_jobs_planned
SELECT id, tenant_id, asset_name AS asset, coalesce(state_by, 'somebody') AS planned_by, resume_at
FROM backfill_jobs
WHERE state = 'paused' AND resume_at IS NOT NULL AND resume_at <= sf_now() AND id <> ALL ($2::uuid[])
ORDER BY resume_at, id
LIMIT $1
FOR NO KEY UPDATE SKIP LOCKED
