-- cancel: backfills end for good; their coordinator settles the partitions that are left.         (B-27, B-52, D-03, B-70)
-- takes   ids uuid[], tenant_id text, by text, reason text, error_message text, operation text
-- gives   rows (id, asset, state, version); those that have ended are missing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET state = 'cancelled', completed_at = sf_now(), error_message = $5, resume_at = NULL, version = version + 1,
    updated_at = sf_now(), state_by = $3, state_reason = $4,
    changed = jsonb_build_object('operation', $6::text, 'by', $3::text, 'at', sf_now(), 'version', version + 1)
WHERE id = ANY ($1::uuid[]) AND tenant_id = $2 AND state IN ('pending', 'running', 'paused', 'resuming')
RETURNING id, asset_name AS asset, state, version
