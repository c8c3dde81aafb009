-- poison_keep: a row that no batch of one row got through is kept with the reason, and stepped over.
-- takes   backfill_job_id uuid, row_key bigint, tenant_id text, asset_name text, ordinal bigint, error_type text,
--         error_message text, fingerprint text
-- gives   nothing; where it is known already, the reason and the time are renewed
-- index   backfill_poison_pkey
INSERT INTO backfill_poison AS p (backfill_job_id, row_key, tenant_id, asset_name, ordinal, error_type, error_message, fingerprint)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (backfill_job_id, row_key) DO UPDATE
SET ordinal = excluded.ordinal, error_type = excluded.error_type, error_message = excluded.error_message,
    fingerprint = excluded.fingerprint, created_at = sf_now()
