-- watermark_hold: lock watermarks until the transaction ends and say where they stand.
-- takes   tenant text, source text, entities text[], subjects text[] (a pair each)
-- gives   entity, subject, captured_at
-- index   entity_seen_pkey; in key order, so that two documents wait for each other one way only
SELECT seen.entity, seen.subject, seen.captured_at
FROM entity_seen AS seen
WHERE seen.tenant_id = $1 AND seen.source = $2
  AND (seen.entity, seen.subject) IN (SELECT * FROM unnest($3::text[], $4::text[]))
ORDER BY seen.entity, seen.subject
FOR UPDATE OF seen
