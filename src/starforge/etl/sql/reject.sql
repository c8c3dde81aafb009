-- reject: what went wrong with a snapshot, or with bytes that never became one.                  (F-19, F-21)
-- takes   tenant_id text, snapshot_id uuid or null, job_id uuid or null, source text or '' for the snapshot's, error_type text,
--         message text, details jsonb, fingerprint text
-- gives   one row (id)
-- index   etl_errors_pkey, hero_snapshots_pkey
INSERT INTO etl_errors (tenant_id, snapshot_id, job_id, source, error_type, message, details, fingerprint)
VALUES ($1, $2, $3, coalesce(nullif($4, ''), (SELECT source FROM hero_snapshots WHERE id = $2 AND tenant_id = $1), $4),
        $5, $6, $7, $8)
RETURNING id
