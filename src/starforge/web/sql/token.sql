-- token: whose token this is, while it is valid.
-- takes   hash bytea
-- gives   one row (id, name, role, tenant_id, hash, unmarked), or none when it is unknown, expired or revoked
-- index   api_tokens_hash_key
SELECT id, name, role, tenant_id, hash,
       last_used_at IS NULL OR last_used_at < sf_now() - interval '1 minute' AS unmarked
FROM api_tokens
WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > sf_now())
