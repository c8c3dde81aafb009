-- expired: backfills that ended so long ago that they are forgotten, the oldest first, locked.                    (D-20)
-- takes   days int, newest backfills of an asset that stay whatever their age int, most int
-- gives   rows (id, tenant_id, asset_name, closed_at); those that somebody holds, or that others refer to, are left
-- index   backfill_jobs_closed, backfill_jobs_children, backfill_jobs_due, backfill_jobs_asset, backfill_ended_job
SELECT b.id, b.tenant_id, b.asset_name, b.closed_at
FROM backfill_jobs AS b
WHERE b.closed_at < sf_now() - make_interval(days => $1)
  AND NOT EXISTS (SELECT FROM backfill_jobs AS child WHERE child.parent_id = b.id)
  AND NOT EXISTS (SELECT FROM backfill_jobs AS below WHERE below.closed_at IS NULL AND b.id = ANY (below.waits_for))
  AND NOT EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = b.id)
  AND EXISTS (SELECT FROM backfill_jobs AS newer
              WHERE newer.tenant_id = b.tenant_id AND newer.asset_name = b.asset_name
                AND (newer.created_at, newer.id) > (b.created_at, b.id)
              OFFSET $2 - 1)
ORDER BY b.closed_at
LIMIT $3
FOR UPDATE OF b SKIP LOCKED
