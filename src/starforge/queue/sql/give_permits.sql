-- give_permits: permits for which there was no job go back into their buckets.                          (J-34)
-- takes   scopes text[], names text[], keys text[], bursts int[], how many int[] (one bucket each)
-- gives   nothing
-- index   rate_buckets_pkey; locked in one order, as by take_permits
WITH back AS (
    SELECT b.scope, b.name, b.key, back.burst, back.permits
    FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[]) AS back (scope, name, key, burst, permits)
    JOIN rate_buckets AS b ON b.scope = back.scope AND b.name = back.name AND b.key = back.key
    ORDER BY b.scope, b.name, b.key
    FOR UPDATE OF b
)
UPDATE rate_buckets AS b
SET tokens = least(back.burst, b.tokens + back.permits)
FROM back
WHERE b.scope = back.scope AND b.name = back.name AND b.key = back.key
