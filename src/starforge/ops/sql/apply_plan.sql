-- apply_plan: the plan is used up.                                                               (X-02)
-- takes   id uuid, tenant text
-- gives   one row (applied_at), or none when it was applied or has expired
-- index   operation_plans_pkey
UPDATE operation_plans
SET applied_at = sf_now()
WHERE id = $1 AND tenant_id = $2 AND applied_at IS NULL AND expires_at > sf_now()
RETURNING applied_at
