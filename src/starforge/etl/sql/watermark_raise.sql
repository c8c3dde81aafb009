-- watermark_raise: watermarks that are held move up to the time of this capture.
-- takes   tenant text, source text, entities text[], subjects text[] (a pair each), captured_at timestamptz
-- gives   nothing
-- index   entity_seen_pkey
UPDATE entity_seen
SET captured_at = $5, updated_at = sf_now()
WHERE tenant_id = $1 AND source = $2 AND captured_at < $5
  AND (entity, subject) IN (SELECT * FROM unnest($3::text[], $4::text[]))
