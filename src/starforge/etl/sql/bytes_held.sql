-- bytes_held: whether bytes that are no snapshot are kept under this id.
-- takes   quarantine id uuid, tenant_id text
-- gives   one row (name, source, reason), or none
-- index   snapshot_quarantine_pkey
SELECT name, source, reason FROM snapshot_quarantine WHERE id = $1 AND tenant_id = $2 AND snapshot_id IS NULL
