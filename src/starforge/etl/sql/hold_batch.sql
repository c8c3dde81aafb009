-- hold_batch: these snapshots are held back together, with a word that names them all; what is held is left alone. (F-40)
-- takes   snapshot ids uuid[], batch text, created_by text, reason text
-- gives   rows (snapshot_id) that are held now and were not
-- index   hero_snapshots_pkey, snapshot_quarantine_open
INSERT INTO snapshot_quarantine (tenant_id, snapshot_id, source, size_bytes, sha256, reason, details, created_by, cause)
SELECT s.tenant_id, s.id, s.source, s.size_bytes, s.sha256, $4, jsonb_build_object('batch', $2::text), $3, 'batch'
FROM hero_snapshots s
WHERE s.id = ANY ($1::uuid[])
  AND NOT EXISTS (SELECT FROM snapshot_quarantine q WHERE q.snapshot_id = s.id AND q.released_at IS NULL)
ORDER BY s.id
RETURNING snapshot_id
