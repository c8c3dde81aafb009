-- reasons: why some of these snapshots failed or are held, like ones together.
-- takes   ids uuid[]
-- gives   rows (status, reason, snapshots, sample_id), most first
-- index   hero_snapshots_pkey, snapshot_quarantine_open
SELECT s.status, coalesce(q.reason, s.last_error ->> 'reason', s.last_error #>> '{}', '?') AS reason,
       count(*) AS snapshots, min(s.id::text) AS sample_id
FROM hero_snapshots s
LEFT JOIN LATERAL (
    SELECT reason FROM snapshot_quarantine q
    WHERE q.snapshot_id = s.id AND q.released_at IS NULL
    ORDER BY q.created_at DESC LIMIT 1) AS q ON true
WHERE s.id = ANY ($1::uuid[]) AND s.status IN ('failed', 'quarantined')
GROUP BY s.status, 2
ORDER BY snapshots DESC, 2
