-- catalogue_key: the type of a catalogue's key, in Postgres's own words.
-- takes   name text, quoted, column text
-- gives   one row (type), or none where there is no such column
-- index   pg_attribute_relid_attnam_index
SELECT format_type(atttypid, NULL) AS type FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped
