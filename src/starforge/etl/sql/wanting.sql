-- wanting: the catalogues for whose entries something waits, or in which placeholders stand.                      (F-43)
-- takes   nothing
-- gives   rows (catalogue, key_column, ids text[]: of the oldest 10 000 placeholders, and all that holds wait for)
-- index   catalogue_placeholders_open, snapshot_quarantine_open, snapshot_holds_pkey
SELECT wanted.catalogue, wanted.key_column, array_agg(DISTINCT wanted.id ORDER BY wanted.id) AS ids
FROM (
    (SELECT catalogue, key_column, id FROM catalogue_placeholders WHERE resolved_at IS NULL ORDER BY created_at LIMIT 10000)
    UNION ALL
    SELECT h.catalogue, h.key_column, unnest(h.missing)
    FROM snapshot_holds h JOIN snapshot_quarantine q ON q.id = h.quarantine_id AND q.released_at IS NULL
) AS wanted
GROUP BY wanted.catalogue, wanted.key_column
ORDER BY wanted.catalogue
