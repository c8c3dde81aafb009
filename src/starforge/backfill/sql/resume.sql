-- resume: paused backfills are claimable at once.                                                 (B-22, D-13, B-70)
-- takes   ids uuid[], tenant_id text, by text, reason text or null, aged_s float8, operation text
-- gives   rows (id, asset, state, version, paused_s); those in another state are missing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET state = 'resuming', heartbeat_at = sf_now() - make_interval(secs => $5), resume_at = NULL, version = version + 1,
    updated_at = sf_now(), state_by = $3, state_reason = $4,
    changed = jsonb_build_object('operation', $6::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1)
WHERE id = ANY ($1::uuid[]) AND tenant_id = $2 AND state = 'paused'
RETURNING id, asset_name AS asset, state, version, extract(epoch FROM sf_now() - paused_at)::float8 AS paused_s
