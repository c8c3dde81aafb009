-- naming_held: quarantined jobs of these types, and what their payloads name.
-- takes   key text, types text[], most int
-- gives   rows (id, type, status, named, created_at, updated_at, reason), those held last first
-- index   queue_jobs_held
SELECT id, type, status, payload ->> $1::text AS named, created_at, updated_at, last_error ->> 'reason' AS reason
FROM queue_jobs
WHERE status = 'quarantined' AND type = ANY ($2::text[]) AND payload ? $1::text
ORDER BY updated_at DESC
LIMIT $3
