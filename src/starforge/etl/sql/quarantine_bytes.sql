-- quarantine_bytes: what no JSON column can hold is kept as it came, once per source.                  (O-26)
-- takes   tenant_id text, source text, name text, bytes bytea, size_bytes bigint, sha256 bytea, reason text,
--         details jsonb
-- gives   one row (id), or none where these bytes are kept already
-- index   snapshot_quarantine_content
INSERT INTO snapshot_quarantine (tenant_id, source, name, bytes, size_bytes, sha256, reason, details, cause)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'malformed')
ON CONFLICT (tenant_id, source, sha256) WHERE bytes IS NOT NULL DO NOTHING
RETURNING id
