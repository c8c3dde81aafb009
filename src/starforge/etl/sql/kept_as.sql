-- kept_as: what is kept under an id: a snapshot, or bytes in quarantine.
-- takes   id uuid, tenant_id text
-- gives   one row (kind), or none
-- index   hero_snapshots_pkey, snapshot_quarantine_pkey
SELECT 'snapshot' AS kind FROM hero_snapshots WHERE id = $1 AND tenant_id = $2
UNION ALL
SELECT 'bytes' FROM snapshot_quarantine WHERE id = $1 AND tenant_id = $2 AND bytes IS NOT NULL
LIMIT 1
