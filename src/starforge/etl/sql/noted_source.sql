-- noted_source: into which tables and columns a source's mapping writes.
-- takes   source text
-- gives   one row (subject_table, subject_key, tables), or none where no worker has written a snapshot of it
-- index   mapped_sources_pkey
SELECT subject_table, subject_key, tables FROM mapped_sources WHERE source = $1
