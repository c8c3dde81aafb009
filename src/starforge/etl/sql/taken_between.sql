-- taken_between: captures of a source that were taken in a stretch of time, in its order, with who may process them.
-- takes   tenant_id text, source text, end timestamptz, after timestamptz and after_id uuid: behind what to go on, at
--         first the stretch's start and the lowest uuid; most int
-- gives   rows (at, id, snapshot_id, capture_id, status, size_bytes, lane: 'normal', 'highmem', or 'held' by no worker)
-- index   snapshot_captures_taken, hero_snapshots_pkey, snapshot_quarantine_snapshot
SELECT c.captured_at AS at, c.id, c.snapshot_id, c.id AS capture_id, s.status, s.size_bytes, coalesce(hold.lane, 'normal') AS lane
FROM snapshot_captures AS c
JOIN hero_snapshots AS s ON s.id = c.snapshot_id
LEFT JOIN LATERAL (
    SELECT CASE WHEN q.released_at IS NULL THEN 'held' ELSE 'highmem' END AS lane
    FROM snapshot_quarantine q
    WHERE q.snapshot_id = c.snapshot_id AND (q.released_at IS NULL OR q.released_to = 'highmem')
    ORDER BY q.released_at IS NULL DESC LIMIT 1) AS hold ON true
WHERE c.tenant_id = $1 AND c.source = $2 AND c.captured_at < $3 AND (c.captured_at, c.id) > ($4::timestamptz, $5::uuid)
ORDER BY c.captured_at, c.id
LIMIT $6
