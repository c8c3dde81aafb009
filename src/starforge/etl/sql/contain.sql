-- contain: a snapshot is held back with its reason: by hand, or because its job has killed too many processes.
--                                                                                        (O-25, O-27, O-29, F-20, F-35)
-- takes   snapshot_id uuid, last_error jsonb, reason text, tenant_id text, cause text, who text or null for the database's
--         role
-- gives   one row (source, owner where a worker has noted one, held: it was not held before), or none where the tenant
--         has no such snapshot
-- index   hero_snapshots_pkey, snapshot_quarantine_open, mapped_sources_pkey
WITH snapshot AS (
    UPDATE hero_snapshots
    SET processing = false, error_count = coalesce(error_count, 0) + 1, last_error = $2, updated_at = sf_now(),
        status = CASE WHEN status IN ('received', 'failed') THEN 'quarantined' ELSE status END
    WHERE id = $1 AND tenant_id = $4
    RETURNING id, tenant_id, source, size_bytes, sha256
), held AS (
    INSERT INTO snapshot_quarantine (tenant_id, snapshot_id, source, size_bytes, sha256, reason, details, cause, created_by)
    SELECT tenant_id, id, source, size_bytes, sha256, $3, $2, $5, coalesce($6, current_user) FROM snapshot
    WHERE NOT EXISTS (SELECT 1 FROM snapshot_quarantine q WHERE q.snapshot_id = snapshot.id AND q.released_at IS NULL)
    RETURNING id
)
SELECT s.source, m.owner, EXISTS (SELECT FROM held) AS held
FROM snapshot s LEFT JOIN mapped_sources m ON m.source = s.source
