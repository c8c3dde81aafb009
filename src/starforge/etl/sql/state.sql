-- state: a snapshot as it stands, and what holds it.                                                   (O-25, O-44)
-- takes   snapshot_id uuid
-- gives   one row (id, source, status, processing, error_count, held: why it is held now, held_by, released_to: the lane of
--         its last release, or null)
-- index   hero_snapshots_pkey, snapshot_quarantine_snapshot
SELECT s.id, s.source, s.status, s.processing, s.error_count,
       CASE WHEN q.released_at IS NULL THEN q.reason END AS held,
       CASE WHEN q.released_at IS NULL THEN q.created_by END AS held_by, q.released_to
FROM hero_snapshots s
LEFT JOIN LATERAL (
    SELECT reason, created_by, released_at, released_to FROM snapshot_quarantine q
    WHERE q.snapshot_id = s.id
    ORDER BY q.released_at IS NULL DESC, q.created_at DESC LIMIT 1) AS q ON true
WHERE s.id = $1
