-- state_lock: a snapshot is locked for the look and the change that follow: one statement would look before it waits.
-- takes   snapshot_id uuid, tenant_id text
-- gives   one row (id), or none where the tenant has no such snapshot
-- index   hero_snapshots_pkey
SELECT id FROM hero_snapshots WHERE id = $1 AND tenant_id = $2 FOR UPDATE
