-- watermark_make: the watermarks that did not exist yet, at the time of this capture.
-- takes   tenant text, source text, entities text[], subjects text[] (a pair each), captured_at timestamptz
-- gives   entity, subject of those that were made
-- index   entity_seen_pkey; in key order, so that two documents wait for each other one way only
INSERT INTO entity_seen (tenant_id, source, subject, entity, captured_at)
SELECT $1, $2, subject, entity, $5
FROM unnest($3::text[], $4::text[]) AS wanted (entity, subject)
ORDER BY entity, subject
ON CONFLICT (tenant_id, source, subject, entity) DO NOTHING
RETURNING entity, subject
