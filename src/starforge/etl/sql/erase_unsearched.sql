-- erase_unsearched: snapshots of nobody known whose content is in the object store.
-- takes   tenant_id text, source text
-- gives   one row (count)
-- index   none
SELECT count(*) FROM hero_snapshots WHERE tenant_id = $1 AND source = $2 AND subject IS NULL AND raw IS NULL
