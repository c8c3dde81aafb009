-- shape_lock: one process at a time adds to what is known of a source.                                            (F-66)
-- takes   tenant_id text, source text
-- gives   one row
-- index   none
SELECT pg_advisory_xact_lock(hashtext('source_shapes'), hashtext($1 || chr(10) || $2))
