-- receive_large: a snapshot whose bytes are in the object store, with its capture and its hold; once per content. (F-20)
-- takes   tenant_id text, source text, name text, raw_key text, size_bytes bigint, sha256 bytea,
--         captured_at timestamptz or null for now, reason text, subject text or null
-- gives   one row (id), or none where the content is known
-- index   hero_snapshots_content
WITH stored AS (
    INSERT INTO hero_snapshots (tenant_id, source, subject, raw_key, size_bytes, sha256, captured_at, status)
    VALUES ($1, $2, $9, $4, $5, $6, coalesce($7, sf_now()), 'quarantined')
    ON CONFLICT ON CONSTRAINT hero_snapshots_content DO NOTHING
    RETURNING id, tenant_id, source, subject, size_bytes, sha256, captured_at
), captured AS (
    INSERT INTO snapshot_captures (tenant_id, snapshot_id, source, subject, captured_at)
    SELECT tenant_id, id, source, subject, captured_at FROM stored
), held AS (
    INSERT INTO snapshot_quarantine (tenant_id, snapshot_id, source, name, size_bytes, sha256, reason, cause)
    SELECT tenant_id, id, source, $3, size_bytes, sha256, $8, 'size' FROM stored
)
SELECT id FROM stored
