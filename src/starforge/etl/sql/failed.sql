-- failed: an attempt on a snapshot failed; final ends it as failed.                              (F-20, O-25)
-- takes   snapshot_id uuid, last_error jsonb, final boolean
-- gives   one row (tenant_id, source), or none where there is no such snapshot
-- index   hero_snapshots_pkey
UPDATE hero_snapshots
SET processing = false, error_count = coalesce(error_count, 0) + 1, last_error = $2,
    status = CASE WHEN $3 THEN 'failed' ELSE status END, updated_at = sf_now()
WHERE id = $1
RETURNING tenant_id, source
