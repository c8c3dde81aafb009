-- fit_types: which of these types can be stored in which without losing anything: by a cast that Postgres makes unasked.
-- takes   sources text[], targets bigint[] (type oids), pair by pair
-- gives   a row per pair, in order (source, target, known: the source is a type, fits)
-- index   pg_cast_source_target_index
SELECT pair.source, pair.target, from_.oid IS NOT NULL AS known,
       from_.oid = pair.target::oid
       OR EXISTS (SELECT FROM pg_type d WHERE d.oid = pair.target::oid AND d.typtype = 'd' AND d.typbasetype = from_.oid)
       OR EXISTS (SELECT FROM pg_cast c
                  WHERE c.castsource = from_.oid AND c.casttarget = pair.target::oid AND c.castcontext = 'i') AS fits
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS pair (source, target, place)
LEFT JOIN pg_type from_ ON from_.oid = to_regtype(pair.source)
ORDER BY pair.place
