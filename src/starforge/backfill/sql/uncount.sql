-- uncount: partitions that were counted as failed are not any more; coordinators look through the backfill again.   (B-43, B-70)
-- takes   id uuid, tenant_id text, by text, fewer int, operation text
-- gives   one row (version, failed)
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET failed_partitions = greatest(0, failed_partitions - $4), version = version + 1, updated_at = sf_now(),
    changed = coalesce(changed, '{}')
              || jsonb_build_object('operation', $5::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1)
WHERE id = $1 AND tenant_id = $2 AND state IN ('pending', 'running', 'paused', 'resuming')
RETURNING version, failed_partitions AS failed
