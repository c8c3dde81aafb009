-- failed: an attempt on a snapshot failed; final ends it as failed, unless it is held back meanwhile. (F-20, O-25)
-- takes   snapshot_id uuid, last_error jsonb, final boolean, tenant_id text
-- gives   one row (source), or none where the tenant has no such snapshot
-- index   hero_snapshots_pkey
UPDATE hero_snapshots
SET processing = false, error_count = coalesce(error_count, 0) + 1, last_error = $2,
    status = CASE WHEN $3 AND status <> 'quarantined' THEN 'failed' ELSE status END, updated_at = sf_now()
WHERE id = $1 AND tenant_id = $4
RETURNING source
