-- pause: backfills start no partition until they are resumed; what runs ends and is counted.      (B-15, B-20, D-04, B-70)
-- takes   ids uuid[], tenant_id text, by text, reason text or null, resume_at timestamptz or null, operation text
-- gives   rows (id, asset, state, version, paused_at, resume_at); those in another state are missing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET state = 'paused', paused_at = sf_now(), resume_at = $5, version = version + 1, updated_at = sf_now(),
    state_by = $3, state_reason = $4,
    changed = jsonb_build_object('operation', $6::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1,
                                 'paused_with', $6::text)
WHERE id = ANY ($1::uuid[]) AND tenant_id = $2 AND state IN ('pending', 'running', 'resuming')
RETURNING id, asset_name AS asset, state, version, paused_at, resume_at
