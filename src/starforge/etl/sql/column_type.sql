-- column_type: the type of a column.
-- takes   quoted table text, column text
-- gives   one row (type), or none where there is no such column
-- index   pg_attribute's own
SELECT format_type(atttypid, NULL) AS type
FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped
