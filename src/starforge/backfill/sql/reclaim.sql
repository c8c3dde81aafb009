-- reclaim: running backfills lose their coordinators, whose writes are refused from now on.       (B-38, B-51, D-11, D-12, B-70)
-- takes   ids uuid[], tenant_id text, by text, aged_s float8, operation text
-- gives   rows (id, asset, state, version, lease_epoch); those in another state are missing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET lease_epoch = lease_epoch + 1, heartbeat_at = sf_now() - make_interval(secs => $4), version = version + 1,
    updated_at = sf_now(),
    changed = coalesce(changed, '{}')
              || jsonb_build_object('operation', $5::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1)
WHERE id = ANY ($1::uuid[]) AND tenant_id = $2 AND state = 'running'
RETURNING id, asset_name AS asset, state, version, lease_epoch
