-- erase_marks: the watermarks of a subject go; a shared row's watermark is not his.
-- takes   tenant_id text, source text, subject text, own tables text[] or null for every entity
-- gives   nothing; the count is in the command's tag
-- index   entity_seen_pkey
DELETE FROM entity_seen
WHERE tenant_id = $1 AND source = $2 AND subject = $3 AND ($4::text[] IS NULL OR entity = ANY ($4))
