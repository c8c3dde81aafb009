-- receive: a snapshot's content is stored once per tenant and source.                             (F-20, G1)
-- takes   tenant_id text, source text, subject text or null, raw text, size_bytes bigint, sha256 bytea,
--         captured_at timestamptz or null for now, status text ('received' or 'quarantined')
-- gives   one row (id, captured_at), or none where the content is known
-- index   hero_snapshots_content
INSERT INTO hero_snapshots (tenant_id, source, subject, raw, size_bytes, sha256, captured_at, status)
VALUES ($1, $2, $3, $4::text::json, $5, $6, coalesce($7, sf_now()), $8)
ON CONFLICT ON CONSTRAINT hero_snapshots_content DO NOTHING
RETURNING id, captured_at
