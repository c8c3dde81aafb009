-- quarantine_snapshot: a stored snapshot is above the size guard, and held back from ordinary workers.     (O-25, O-34)
-- takes   snapshot_id uuid, name text or null, reason text
-- gives   one row (id)
-- index   hero_snapshots_pkey
INSERT INTO snapshot_quarantine (tenant_id, snapshot_id, source, name, size_bytes, sha256, reason, cause)
SELECT tenant_id, id, source, $2, size_bytes, sha256, $3, 'size' FROM hero_snapshots WHERE id = $1
RETURNING id
