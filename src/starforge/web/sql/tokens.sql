-- tokens: the tokens that are not revoked, of every tenant; none of them can be seen.
-- takes   nothing
-- gives   rows (name, role, tenant_id, created_at, expires_at, last_used_at), by tenant and name
-- index   none: there are few
SELECT name, role, tenant_id, created_at, expires_at, last_used_at
FROM api_tokens
WHERE revoked_at IS NULL
ORDER BY tenant_id, name, created_at
