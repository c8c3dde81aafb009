-- last_snapshots: the newest snapshots and what became of them; their content is not read.
-- takes   limit integer
-- gives   a row per snapshot, newest first
-- index   hero_snapshots_created
SELECT id, source, subject, size_bytes, status, processing, error_count, rows_written,
       CASE jsonb_typeof(last_error) WHEN 'object' THEN last_error ->> 'reason'
                                     WHEN 'string' THEN last_error #>> '{}' END AS reason,
       extract(epoch FROM sf_now() - created_at)::float8 AS age_s,
       extract(epoch FROM processed_at - created_at)::float8 AS took_s
FROM hero_snapshots
ORDER BY created_at DESC
LIMIT $1
