-- set: a live backfill goes on in other terms.                                                    (B-45, B-70)
-- takes   id uuid, tenant_id text, by text, concurrency int, priority int, attempts_max int, failed_max int, sla_at timestamptz,
--         operation text
-- gives   one row (version), or none where it has ended
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET concurrency = $4, priority = $5, attempts_max = $6, failed_max = $7, sla_at = $8, version = version + 1, updated_at = sf_now(),
    changed = coalesce(changed, '{}')
              || jsonb_build_object('operation', $9::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1)
WHERE id = $1 AND tenant_id = $2 AND state IN ('pending', 'running', 'paused', 'resuming')
RETURNING version
