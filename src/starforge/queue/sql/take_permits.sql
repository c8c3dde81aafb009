-- take_permits: a worker takes permits out of buckets, as many as it asks for and they can give.        (J-34)
-- takes   scopes text[], names text[], keys text[], per second float8[], bursts int[], wanted int[] (one bucket each),
--         how many seconds before they are good permits are given float8
-- gives   rows (scope, name, key, level, granted): the n-th permit is good once level + per_s * seconds from now >= n
-- index   rate_buckets_pkey. The rows are locked first, in one order, and read as they are then; a statement that has
--         waited finds a bucket refilled after its own beginning, and takes no time back
WITH bucket AS (
    SELECT b.scope, b.name, b.key, want.per_s, want.wanted,
           greatest(-want.per_s * $7::float8,
                    least(want.burst, b.tokens + want.per_s * greatest(0, extract(epoch FROM sf_now() - b.refilled_at)::float8)))
               AS level
    FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::int[], $6::int[])
        AS want (scope, name, key, per_s, burst, wanted)
    JOIN rate_buckets AS b ON b.scope = want.scope AND b.name = want.name AND b.key = want.key
    ORDER BY b.scope, b.name, b.key
    FOR UPDATE OF b
), given AS (
    SELECT scope, name, key, level, greatest(0, least(wanted, floor(level + per_s * $7::float8 + 1e-6)))::int AS granted
    FROM bucket
)
UPDATE rate_buckets AS b
SET tokens = given.level - given.granted, refilled_at = greatest(b.refilled_at, sf_now())
FROM given
WHERE b.scope = given.scope AND b.name = given.name AND b.key = given.key
RETURNING b.scope, b.name, b.key, given.level, given.granted
