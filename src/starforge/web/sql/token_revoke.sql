-- token_revoke: a tenant's tokens of a name are good for nothing any more.
-- takes   tenant text, name text
-- gives   one row (id) for each
-- index   none: there are few
UPDATE api_tokens SET revoked_at = sf_now() WHERE tenant_id = $1 AND name = $2 AND revoked_at IS NULL
RETURNING id
