-- exists: whether the caller's tenant has a backfill of this id.                                              (B-70)
-- takes   id uuid
-- gives   one boolean
-- index   backfill_jobs_pkey
SELECT EXISTS (SELECT 1 FROM backfill_jobs WHERE id = $1 AND tenant_id = sf_tenant())
