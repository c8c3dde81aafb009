-- record: what was done, by whom and why, in the transaction that did it.                  (X-05, X-06)
-- takes   tenant, actor, role, operation text, arguments jsonb, reason text, plan_id uuid, key text,
--         request_id uuid, source_address text, matched, changed integer, before, after, result jsonb
-- gives   the row; a unique violation of audit_logs_key where the key was used already
-- index   audit_logs_pkey, audit_logs_key
INSERT INTO audit_logs (tenant_id, actor, role, operation, arguments, reason, plan_id, idempotency_key,
                        request_id, source_address, matched, changed, before, after, result)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
RETURNING id, at, actor, operation, arguments, reason, plan_id, matched, changed, before, after, result
