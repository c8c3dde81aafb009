-- erase_find: a subject's snapshots, and those of nobody known that speak of him, locked.
-- takes   tenant_id text, source text, subject text
-- gives   rows (id, raw_key)
-- index   snapshot_captures_latest for the captures; of snapshots without a subject the content is read
SELECT id, raw_key
FROM hero_snapshots
WHERE tenant_id = $1 AND source = $2
  AND (subject = $3
       OR id = ANY (ARRAY (SELECT snapshot_id FROM snapshot_captures WHERE tenant_id = $1 AND source = $2 AND subject = $3))
       OR subject IS NULL AND raw IS NOT NULL AND sf_mentions(raw::text, $3))
ORDER BY id
FOR UPDATE
