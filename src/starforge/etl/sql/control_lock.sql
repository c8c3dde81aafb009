-- control_lock: the flag that pauses ingestion, locked for the change that follows.       (Q-29)
-- takes   nothing
-- gives   one row (data, updated_at, now), or none when the row was deleted by hand
-- index   feature_flags_pkey
SELECT data, updated_at, sf_now() AS now FROM feature_flags WHERE name = 'ingest_control' FOR UPDATE
