-- largest: a tenant's largest snapshots that fit; their content is not read.                            (O-17)
-- takes   tenant_id text, status text or null, source text or null, since_s float8 or null, most int
-- gives   rows (id, source, subject, size_bytes, status, processing, error_count, rows_written, captured_at, created_at,
--         processed_at, reason), the largest first
-- index   hero_snapshots_size
SELECT id, source, subject, size_bytes, status, processing, error_count, rows_written, captured_at, created_at, processed_at,
       CASE jsonb_typeof(last_error) WHEN 'object' THEN last_error ->> 'reason'
                                     WHEN 'string' THEN last_error #>> '{}' END AS reason
FROM hero_snapshots
WHERE tenant_id = $1 AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR source = $3)
  AND created_at >= coalesce(sf_now() - make_interval(secs => $4), '-infinity')
ORDER BY size_bytes DESC, created_at DESC
LIMIT $5
