-- created: when a backfill of the caller's tenant was created.                                               (B-70)
-- takes   id uuid
-- gives   one row (created_at), or none where the tenant has no such backfill
-- index   backfill_jobs_pkey
SELECT created_at FROM backfill_jobs WHERE id = $1 AND tenant_id = sf_tenant()
