-- quarantine_large: what is no JSON and too large for a column is kept in the object store, once per source.   (O-26)
-- takes   tenant_id text, source text, name text, raw_key text, size_bytes bigint, sha256 bytea, reason text,
--         details jsonb
-- gives   one row (id), or none where these bytes are kept already
-- index   snapshot_quarantine_large
INSERT INTO snapshot_quarantine (tenant_id, source, name, raw_key, size_bytes, sha256, reason, details, cause)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'malformed')
ON CONFLICT (tenant_id, source, sha256) WHERE raw_key IS NOT NULL DO NOTHING
RETURNING id
