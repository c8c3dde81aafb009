-- open: the transaction speaks for a tenant, and learns whether ingestion is paused: one round trip for both.
-- takes   tenant_id text
-- gives   one row (tenant_id, data, updated_at, now); data is null where the flag's row was deleted by hand
-- index   feature_flags_pkey
SELECT tenant.id AS tenant_id, flag.data, flag.updated_at, sf_now() AS now
FROM set_config('starforge.tenant_id', $1, true) AS tenant (id)
LEFT JOIN feature_flags AS flag ON flag.name = 'ingest_control'
