-- stored: the documents of stored snapshots, to look at.
-- takes   ids uuid[]
-- gives   a row per id, in order (id, source, raw, size_bytes, elsewhere: the bytes are in the object store); source is null
--         where the caller's tenant has no such snapshot
-- index   hero_snapshots_pkey
SELECT wanted.id, s.source, s.raw::text AS raw, s.size_bytes, s.raw_key IS NOT NULL AND s.raw IS NULL AS elsewhere
FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
LEFT JOIN hero_snapshots s ON s.id = wanted.id
ORDER BY wanted.place
