-- entities_of: up to which capture each entity of a subject has been written.
-- takes   tenant_id text, source text, subject text
-- gives   rows (entity, captured_at, updated_at)
-- index   entity_seen_pkey
SELECT entity, captured_at, updated_at FROM entity_seen
WHERE tenant_id = $1 AND source = $2 AND subject = $3
ORDER BY entity
