-- retention_rules: how long a tenant keeps what, where it says so itself.
-- takes   tenant_id text
-- gives   rows (tenant, source, kind, days, owner, reason, created_at)
-- index   retention_rules_pkey
SELECT tenant_id AS tenant, source, kind, days, owner, reason, created_at FROM retention_rules
WHERE tenant_id = $1
ORDER BY kind, source
