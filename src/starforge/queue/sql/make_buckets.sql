-- make_buckets: rates that nobody has used before, or for long, have a full bucket.                     (J-34)
-- takes   scopes text[], names text[], keys text[], bursts int[] (one bucket each)
-- gives   nothing
-- index   rate_buckets_pkey
INSERT INTO rate_buckets (scope, name, key, tokens, refilled_at)
SELECT scope, name, key, burst, sf_now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS bucket (scope, name, key, burst)
ORDER BY scope, name, key
ON CONFLICT (scope, name, key) DO NOTHING
