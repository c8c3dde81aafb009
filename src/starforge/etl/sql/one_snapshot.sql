-- one_snapshot: one snapshot of a tenant, as largest, with where and how its content is kept; the content is not read.
-- takes   snapshot_id uuid, tenant_id text
-- gives   one row, or none
-- index   hero_snapshots_pkey
SELECT id, source, subject, size_bytes, status, processing, error_count, rows_written, captured_at, created_at, processed_at,
       CASE jsonb_typeof(last_error) WHEN 'object' THEN last_error ->> 'reason'
                                     WHEN 'string' THEN last_error #>> '{}' END AS reason,
       encode(sha256, 'hex') AS sha256, raw_key
FROM hero_snapshots
WHERE id = $1 AND tenant_id = $2
