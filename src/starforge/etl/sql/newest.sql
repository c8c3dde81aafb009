-- newest: the newest stored documents of a source, to look at.                                                    (F-67)
-- takes   source text, most integer
-- gives   rows (id, raw); what lies in the object store is left out
-- index   hero_snapshots_created
SELECT id, raw::text AS raw FROM hero_snapshots
WHERE source = $1 AND raw IS NOT NULL
ORDER BY created_at DESC
LIMIT $2
