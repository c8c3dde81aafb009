-- overlapping: the live backfills of an asset that cover some of the same partitions, the oldest first.
-- takes   tenant_id text, asset_name text, covers int8multirange, most int
-- gives   rows (id, state, created_by, created_at, total_partitions, shared int8multirange)
-- index   backfill_jobs_overlap
SELECT id, state, created_by, created_at, total_partitions, covers * $3::int8multirange AS shared
FROM backfill_jobs
WHERE tenant_id = $1 AND asset_name = $2 AND covers && $3::int8multirange
  AND state IN ('pending', 'running', 'paused', 'resuming')
ORDER BY created_at
LIMIT $4
