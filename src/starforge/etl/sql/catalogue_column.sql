-- catalogue_column: what a table is by which documents are checked: shared by all tenants, with meta and a plain key.
-- takes   name text, quoted
-- gives   one row (shared, has_meta, key, key_type, columns text[]); key is null where the primary key is not one column;
--         none where there is no such table
-- index   pg_class_oid_index, pg_attribute_relid_attnum_index, pg_index_indrelid_index
SELECT NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS shared,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'meta' AND a.atttypid = 'jsonb'::regtype
               AND NOT a.attisdropped) AS has_meta,
       k.attname AS key, format_type(k.atttypid, NULL) AS key_type,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns
FROM pg_class c
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1
LEFT JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = i.indkey[0]
WHERE c.oid = to_regclass($1)
