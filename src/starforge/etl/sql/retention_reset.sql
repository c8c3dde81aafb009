-- retention_reset: the setting decides again how long a kind is kept.
-- takes   tenant_id text, source text or '', kind text
-- gives   one row as retention_rules: the rule that ended; none where there was none
-- index   retention_rules_pkey
DELETE FROM retention_rules WHERE tenant_id = $1 AND source = $2 AND kind = $3
RETURNING tenant_id AS tenant, source, kind, days, owner, reason, created_at
