-- dropped: objects that no snapshot names any more, to be deleted from the object store.
-- takes   most int
-- gives   rows (raw_key)
-- index   dropped_objects_pkey
SELECT raw_key FROM dropped_objects ORDER BY raw_key LIMIT $1
