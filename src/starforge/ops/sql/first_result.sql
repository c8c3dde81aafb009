-- first_result: what came of the first request with this idempotency key.                        (X-06)
-- takes   tenant text, key text
-- gives   one row, or none when the key is new
-- index   audit_logs_key
SELECT id, at, actor, operation, arguments, reason, plan_id, matched, changed, before, after, result
FROM audit_logs
WHERE tenant_id = $1 AND idempotency_key = $2
