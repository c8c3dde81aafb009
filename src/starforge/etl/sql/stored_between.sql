-- stored_between: snapshots of a source that were stored in a stretch of time, as taken_between gives captures; each
--                 stands for its latest capture.
-- takes   tenant_id text, source text, end timestamptz, after timestamptz and after_id uuid, most int
-- gives   rows (at, id, snapshot_id, capture_id: null, status, size_bytes, lane)
-- index   hero_snapshots_created, snapshot_quarantine_snapshot
SELECT s.created_at AS at, s.id, s.id AS snapshot_id, NULL::uuid AS capture_id, s.status, s.size_bytes,
       coalesce(hold.lane, 'normal') AS lane
FROM hero_snapshots AS s
LEFT JOIN LATERAL (
    SELECT CASE WHEN q.released_at IS NULL THEN 'held' ELSE 'highmem' END AS lane
    FROM snapshot_quarantine q
    WHERE q.snapshot_id = s.id AND (q.released_at IS NULL OR q.released_to = 'highmem')
    ORDER BY q.released_at IS NULL DESC LIMIT 1) AS hold ON true
WHERE s.tenant_id = $1 AND s.source = $2 AND s.created_at < $3 AND s.created_at >= $4::timestamptz
  AND (s.created_at, s.id) > ($4::timestamptz, $5::uuid)
ORDER BY s.created_at, s.id
LIMIT $6
