-- dropped_done: an object is deleted from the object store.
-- takes   raw_key text
-- gives   nothing
-- index   dropped_objects_pkey
DELETE FROM dropped_objects WHERE raw_key = $1
