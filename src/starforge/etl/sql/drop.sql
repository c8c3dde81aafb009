-- drop: these objects are to be deleted from the object store.
-- takes   raw_keys text[], tenant_ids text[] beside them
-- gives   nothing
-- index   dropped_objects_pkey
INSERT INTO dropped_objects (raw_key, tenant_id)
SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (raw_key) DO NOTHING
