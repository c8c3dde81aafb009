-- lock_waiting: the backfills that wait for one of these, and those that wait for them, locked.  (B-27, B-70)
-- takes   tenant_id text, ids uuid[], most int
-- gives   rows (id, asset, state, version), in the order of ids
-- index   backfill_jobs_live; live backfills are few
WITH RECURSIVE waiting AS (
    SELECT id FROM backfill_jobs
    WHERE tenant_id = $1 AND state IN ('pending', 'paused', 'resuming') AND waits_for && $2::uuid[]
    UNION
    SELECT job.id FROM waiting JOIN backfill_jobs AS job ON waiting.id = ANY (job.waits_for)
    WHERE job.tenant_id = $1 AND job.state IN ('pending', 'paused', 'resuming')
)
SELECT id, asset_name AS asset, state, version
FROM backfill_jobs
WHERE id IN (SELECT id FROM waiting) AND tenant_id = $1 AND state IN ('pending', 'paused', 'resuming') AND id <> ALL ($2::uuid[])
ORDER BY id
LIMIT $3
FOR NO KEY UPDATE
