-- pause: nothing is ingested until the pause expires or is resumed.                       (Q-29, X-11)
-- takes   owner text, reason text, minutes integer
-- gives   one row (data, updated_at, now)
-- index   feature_flags_pkey
INSERT INTO feature_flags (name, data)
VALUES ('ingest_control', jsonb_build_object(
    'ingest_paused', true, 'owner', $1::text, 'reason', $2::text,
    'until', to_jsonb(sf_now() + make_interval(mins => $3))))
ON CONFLICT (name) DO UPDATE
SET data = CASE jsonb_typeof(feature_flags.data) WHEN 'object' THEN feature_flags.data ELSE '{}' END || excluded.data,
    updated_at = sf_now()
RETURNING data, updated_at, sf_now() AS now
