-- store_plan: what an operation would do, kept until it is applied or expires.                   (X-02)
-- takes   id uuid, tenant, actor, operation text, arguments jsonb, fingerprint text, change jsonb,
--         expires_s double precision
-- gives   one row (created_at, expires_at)
-- index   operation_plans_pkey
INSERT INTO operation_plans (id, tenant_id, actor, operation, arguments, fingerprint, change, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, sf_now() + make_interval(secs => $8))
RETURNING created_at, expires_at
