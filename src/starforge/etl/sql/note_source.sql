-- note_source: who answers for a source, and into which tables and columns its mapping writes.
-- takes   source text, owner text or null, subject_table text, subject_key text, tables jsonb
-- gives   nothing
-- index   mapped_sources_pkey; what is as it was is not written again
INSERT INTO mapped_sources AS known (source, owner, subject_table, subject_key, tables)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (source) DO UPDATE
SET owner = excluded.owner, subject_table = excluded.subject_table, subject_key = excluded.subject_key,
    tables = excluded.tables, declared_at = sf_now()
WHERE (known.owner, known.subject_table, known.subject_key, known.tables)
      IS DISTINCT FROM (excluded.owner, excluded.subject_table, excluded.subject_key, excluded.tables)
