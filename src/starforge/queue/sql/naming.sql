-- naming: the live jobs of a tenant whose payload names one of these.                                     (O-44)
-- takes   key text, values text[], tenant_id text or null for all
-- gives   rows (id, type, status, named, created_at, updated_at, reason), the newest first
-- index   none: payloads have none, and the queue is read once
SELECT id, type, status, payload ->> $1::text AS named, created_at, updated_at, last_error ->> 'reason' AS reason
FROM queue_jobs
WHERE payload ->> $1::text = ANY ($2::text[]) AND ($3::text IS NULL OR tenant_id = $3)
ORDER BY created_at DESC, id DESC
