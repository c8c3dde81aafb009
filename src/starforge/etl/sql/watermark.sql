-- watermark: make these watermarks or raise them to this capture, lock them until the transaction ends, and say
--            where each stood. One statement, so that no join of it depends on statistics.
-- takes   tenant text, source text, entities text[], subjects text[], captured_at timestamptz[] (a mark each)
-- gives   entity, subject, previous_at: the capture before, null where this is the first
-- index   entity_seen_pkey; in key order, so that documents wait for each other one way only
INSERT INTO entity_seen AS seen (tenant_id, source, subject, entity, captured_at)
SELECT $1, $2, wanted.subject, wanted.entity, wanted.captured_at
FROM unnest($3::text[], $4::text[], $5::timestamptz[]) AS wanted (entity, subject, captured_at)
ORDER BY wanted.entity, wanted.subject
ON CONFLICT (tenant_id, source, subject, entity) DO UPDATE
SET previous_at = seen.captured_at, captured_at = greatest(seen.captured_at, excluded.captured_at), updated_at = sf_now()
RETURNING entity, subject, previous_at
