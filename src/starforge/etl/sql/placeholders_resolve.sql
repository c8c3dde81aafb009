-- placeholders_resolve: these entries are known now.                                                              (F-43)
-- takes   catalogue text, ids text[]
-- gives   rows (id) that were open
-- index   catalogue_placeholders_pkey
UPDATE catalogue_placeholders SET resolved_at = sf_now()
WHERE catalogue = $1 AND id = ANY ($2::text[]) AND resolved_at IS NULL
RETURNING id
