-- take_plan: a plan that is about to be applied, locked so that it is applied once.              (X-02)
-- takes   id uuid, tenant text
-- gives   one row, or none when there is no such plan for this tenant
-- index   operation_plans_pkey
SELECT actor, operation, arguments, fingerprint, applied_at, expires_at, expires_at <= sf_now() AS expired
FROM operation_plans
WHERE id = $1 AND tenant_id = $2
FOR UPDATE
