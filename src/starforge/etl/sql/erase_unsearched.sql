-- erase_unsearched: snapshots of nobody known, and what is no JSON, whose content is in the object store.
-- takes   tenant_id text, source text
-- gives   one row (count)
-- index   none for the snapshots, snapshot_quarantine_large
SELECT (SELECT count(*) FROM hero_snapshots WHERE tenant_id = $1 AND source = $2 AND subject IS NULL AND raw IS NULL)
     + (SELECT count(*) FROM snapshot_quarantine WHERE tenant_id = $1 AND source = $2 AND raw_key IS NOT NULL) AS count
