-- placeholder_note: entries that were made because a document refers to them are registered.              (F-41, F-43)
-- takes   catalogue text, key_column text, ids text[], source text, snapshot_ids uuid[] (or null; one an id), owner text
-- gives   nothing; one that was resolved and is lacking again is open again
-- index   catalogue_placeholders_pkey
INSERT INTO catalogue_placeholders AS p (catalogue, key_column, id, source, snapshot_id, owner)
SELECT $1, $2, made.id, $4, made.snapshot_id, $6
FROM unnest($3::text[], $5::uuid[]) AS made (id, snapshot_id) ORDER BY made.id
ON CONFLICT (catalogue, id) DO UPDATE
SET resolved_at = NULL, created_at = excluded.created_at, source = excluded.source,
    snapshot_id = excluded.snapshot_id, key_column = excluded.key_column, owner = excluded.owner
WHERE p.resolved_at IS NOT NULL
