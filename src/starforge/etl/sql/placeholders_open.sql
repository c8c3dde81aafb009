-- placeholders_open: what catalogues lack, oldest first.                                                          (F-43)
-- takes   catalogue text or null for all, source text or null for all, most integer
-- gives   rows (catalogue, id, source, snapshot_id, owner, created_at, more: rows beyond this list)
-- index   catalogue_placeholders_open
SELECT catalogue, id, source, snapshot_id, owner, created_at,
       greatest(count(*) OVER () - $3, 0) AS more
FROM catalogue_placeholders
WHERE resolved_at IS NULL AND ($1::text IS NULL OR catalogue = $1) AND ($2::text IS NULL OR source = $2)
ORDER BY catalogue, created_at, id
LIMIT $3
