-- hold: a snapshot that refers to entries which a catalogue lacks waits for them.                                 (F-42)
-- takes   snapshot_id uuid, job_id uuid, catalogue text, key_column text, missing text[], owner text, reason text,
--         details jsonb
-- gives   one row (quarantine_id); where it waits already, for what it waits is renewed
-- index   hero_snapshots_pkey, snapshot_holds_snapshot, snapshot_quarantine_pkey
WITH snapshot AS (
    UPDATE hero_snapshots SET processing = false, updated_at = sf_now() WHERE id = $1
    RETURNING id, tenant_id, source, size_bytes, sha256
), again AS (
    UPDATE snapshot_holds AS h SET missing = $5, catalogue = $3, key_column = $4, owner = $6, job_id = $2
    FROM snapshot_quarantine AS q
    WHERE h.snapshot_id = $1 AND q.id = h.quarantine_id AND q.released_at IS NULL
    RETURNING h.quarantine_id
), held AS (
    INSERT INTO snapshot_quarantine (tenant_id, snapshot_id, source, size_bytes, sha256, reason, details, cause)
    SELECT tenant_id, id, source, size_bytes, sha256, $7, $8, 'catalogue' FROM snapshot WHERE NOT EXISTS (SELECT FROM again)
    RETURNING id, tenant_id, source
), waits AS (
    INSERT INTO snapshot_holds (quarantine_id, tenant_id, snapshot_id, job_id, source, catalogue, key_column, missing, owner)
    SELECT id, tenant_id, $1, $2, source, $3, $4, $5, $6 FROM held
    RETURNING quarantine_id
)
SELECT quarantine_id FROM waits UNION ALL SELECT quarantine_id FROM again
