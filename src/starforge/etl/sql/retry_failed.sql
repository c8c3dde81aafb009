-- retry_failed: failed snapshots of a source wait for a worker once more, oldest first.                           (F-36)
-- takes   tenant_id text, source text, error_type text or null for any, seconds back float8, most integer
-- gives   rows (id, was jsonb: the last error)
-- index   hero_snapshots_created
WITH chosen AS (
    SELECT id FROM hero_snapshots
    WHERE tenant_id = $1 AND source = $2 AND status = 'failed' AND updated_at > sf_now() - make_interval(secs => $4)
      AND ($3::text IS NULL OR last_error ->> 'error_type' = $3)
    ORDER BY created_at, id
    LIMIT $5
    FOR UPDATE SKIP LOCKED
)
UPDATE hero_snapshots AS s SET status = 'received', updated_at = sf_now()
FROM chosen WHERE s.id = chosen.id AND s.status = 'failed'
RETURNING s.id, s.last_error AS was
