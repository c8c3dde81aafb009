-- fit: what Postgres knows about these tables, to compare with what a mapping asks of them.
-- takes   names text[], quoted, with or without their schema
-- gives   a row per name, in order (name, found, guarded: row security is on and binds the owner too, policies: those that let
--         the engine in, rights: what the engine may do, columns jsonb[], keys jsonb[]: columns of each unique index)
-- index   pg_class_oid_index, pg_attribute_relid_attnum_index, pg_index_indrelid_index; a handful of tables
SELECT wanted.name, c.oid IS NOT NULL AS found,
       coalesce(c.relrowsecurity AND c.relforcerowsecurity, false) AS guarded,
       (SELECT count(*) FROM pg_policy p
        WHERE p.polrelid = c.oid AND (to_regrole('starforge_engine') = ANY (p.polroles) OR 0 = ANY (p.polroles))) AS policies,
       ARRAY(SELECT r FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r
             WHERE has_table_privilege(to_regrole('starforge_engine'), c.oid, r)) AS rights,
       ARRAY(SELECT jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'oid', a.atttypid::bigint,
                                       'required', a.attnotnull,
                                       'filled', a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '')
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       ARRAY(SELECT (SELECT jsonb_agg(a.attname) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
             FROM pg_index i
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
               AND i.indpred IS NULL AND i.indexprs IS NULL) AS keys
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place)
LEFT JOIN pg_class c ON c.oid = to_regclass(wanted.name)
ORDER BY wanted.place
