-- kept_as: what is kept under an id: a snapshot, or bytes that are no JSON, and in which object where these are large.
-- takes   id uuid, tenant_id text
-- gives   one row (kind, raw_key), or none
-- index   hero_snapshots_pkey, snapshot_quarantine_pkey
SELECT 'snapshot' AS kind, NULL AS raw_key FROM hero_snapshots WHERE id = $1 AND tenant_id = $2
UNION ALL
SELECT CASE WHEN raw_key IS NULL THEN 'bytes' ELSE 'object' END, raw_key FROM snapshot_quarantine
WHERE id = $1 AND tenant_id = $2 AND snapshot_id IS NULL
LIMIT 1
