-- retention_set: a tenant keeps a kind for so long from now on.
-- takes   tenant_id text, source text or '' for all, kind text, days int, owner text, reason text
-- gives   one row as retention_rules
-- index   retention_rules_pkey
INSERT INTO retention_rules (tenant_id, source, kind, days, owner, reason)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, source, kind) DO UPDATE
SET days = excluded.days, owner = excluded.owner, reason = excluded.reason, created_at = sf_now()
RETURNING tenant_id AS tenant, source, kind, days, owner, reason, created_at
