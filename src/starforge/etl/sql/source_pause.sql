-- source_pause: nothing of one source is ingested until the pause expires or is resumed.                 (F-37, X-11)
-- takes   source text, owner text, reason text, minutes integer, told text or null, ended text[]: sources to forget
-- gives   one row (data, updated_at, now)
-- index   feature_flags_pkey
WITH entry AS (
    SELECT jsonb_build_object($1::text, jsonb_build_object(
        'owner', $2::text, 'reason', $3::text, 'until', to_jsonb(sf_now() + make_interval(mins => $4)), 'told', $5::text)) AS data
)
INSERT INTO feature_flags AS flag (name, data)
SELECT 'ingest_control', jsonb_build_object('ingest_paused', false, 'sources', entry.data) FROM entry
ON CONFLICT (name) DO UPDATE
SET data = CASE jsonb_typeof(flag.data) WHEN 'object' THEN flag.data ELSE '{}' END || jsonb_build_object('sources',
        CASE jsonb_typeof(flag.data -> 'sources') WHEN 'object' THEN (flag.data -> 'sources') - $6::text[] ELSE '{}' END
        || (excluded.data -> 'sources')),
    updated_at = sf_now()
RETURNING data, updated_at, sf_now() AS now
