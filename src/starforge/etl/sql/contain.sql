-- contain: a snapshot whose job has killed too many processes is held back with its reason.   (O-25, O-29, F-20)
-- takes   snapshot_id uuid, last_error jsonb, reason text, tenant_id text
-- gives   one row (source), or none where the tenant has no such snapshot
-- index   hero_snapshots_pkey, snapshot_quarantine_open
WITH snapshot AS (
    UPDATE hero_snapshots
    SET processing = false, error_count = coalesce(error_count, 0) + 1, last_error = $2, updated_at = sf_now(),
        status = CASE WHEN status IN ('received', 'failed') THEN 'quarantined' ELSE status END
    WHERE id = $1 AND tenant_id = $4
    RETURNING id, tenant_id, source, size_bytes, sha256
), held AS (
    INSERT INTO snapshot_quarantine (tenant_id, snapshot_id, source, size_bytes, sha256, reason, details)
    SELECT tenant_id, id, source, size_bytes, sha256, $3, $2 FROM snapshot
    WHERE NOT EXISTS (SELECT 1 FROM snapshot_quarantine q WHERE q.snapshot_id = snapshot.id AND q.released_at IS NULL)
)
SELECT source FROM snapshot
