-- resume: snapshots are accepted again.                                                   (Q-29)
-- takes   nothing
-- gives   one row (updated_at), or none when the flag is not set
-- index   feature_flags_pkey
UPDATE feature_flags
SET data = data - '{owner,reason,until}'::text[] || '{"ingest_paused": false}', updated_at = sf_now()
WHERE name = 'ingest_control' AND lower(data ->> 'ingest_paused') = 'true'
RETURNING updated_at
