-- source_resume: snapshots of these sources are accepted again.                                            (F-37)
-- takes   sources text[]
-- gives   one row (updated_at), or none when no source is paused by itself
-- index   feature_flags_pkey
UPDATE feature_flags
SET data = jsonb_set(data, '{sources}', (data -> 'sources') - $1::text[]), updated_at = sf_now()
WHERE name = 'ingest_control' AND jsonb_typeof(data -> 'sources') = 'object'
RETURNING updated_at
