-- plan_resume: a paused backfill is to be resumed at another time, or at none.                    (B-12, B-70)
-- takes   id uuid, tenant_id text, by text, resume_at timestamptz or null, operation text
-- gives   one row (version, resume_at), or none where it is not paused
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET resume_at = $4, version = version + 1, updated_at = sf_now(),
    changed = coalesce(changed, '{}')
              || jsonb_build_object('operation', $5::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1)
WHERE id = $1 AND tenant_id = $2 AND state = 'paused'
RETURNING version, resume_at
