-- token_make: a new token; only its hash is kept.
-- takes   tenant, name, role text, hash bytea, days int or null for no end
-- gives   one row (id)
-- index   api_tokens_pkey, api_tokens_hash_key
INSERT INTO api_tokens (tenant_id, name, role, hash, expires_at)
VALUES ($1, $2, $3, $4, sf_now() + $5::int * interval '1 day')
RETURNING id
