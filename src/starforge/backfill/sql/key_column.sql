-- key_column: what a key range walks, as the catalogue has it.
-- takes   table text with its parts quoted, column text
-- gives   one row (found bool, type text or null where there is no such column, reader text: who asks)
-- index   the catalogue's own
SELECT to_regclass($1) IS NOT NULL AS found,
       (SELECT atttypid::regtype::text FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attname = $2 AND attnum > 0 AND NOT attisdropped) AS type,
       current_user::text AS reader
