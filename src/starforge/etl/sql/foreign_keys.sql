-- foreign_keys: the foreign keys among some tables.
-- takes   tables text[], the same quoted text[]
-- gives   rows (child, columns, parent, parent_columns), the tables as they were given
-- index   pg_constraint's own
WITH named AS (
    SELECT name, to_regclass(quoted) AS id FROM unnest($1::text[], $2::text[]) AS given (name, quoted)
)
SELECT child.name AS child, parent.name AS parent,
       (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(con.conkey) WITH ORDINALITY AS k (num, place)
        JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.num) AS columns,
       (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(con.confkey) WITH ORDINALITY AS k (num, place)
        JOIN pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.num) AS parent_columns
FROM pg_constraint con
JOIN named AS child ON child.id = con.conrelid
JOIN named AS parent ON parent.id = con.confrelid
WHERE con.contype = 'f'
