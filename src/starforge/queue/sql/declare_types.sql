-- declare_types: a worker knows these job types; what was learned of them stays.
-- takes   names text[], queues text[], owners text[] with nulls, critical bool[], isolated bool[],
--         timeouts float8[] in s with nulls, max_attempts int[] with nulls, limits text[] of JSON
-- gives   nothing
-- index   job_types_pkey, in one order, so that two workers that start do not wait for each other in a circle
INSERT INTO job_types AS known (name, queue, owner, critical, isolated, timeout_s, max_attempts, limits)
SELECT name, queue, owner, critical, isolated, timeout_s, max_attempts, limits::jsonb
FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::bool[], $6::float8[], $7::int[], $8::text[])
    AS said (name, queue, owner, critical, isolated, timeout_s, max_attempts, limits)
ORDER BY name
ON CONFLICT (name) DO UPDATE
SET queue = excluded.queue, owner = excluded.owner, critical = excluded.critical, isolated = excluded.isolated,
    timeout_s = excluded.timeout_s, max_attempts = excluded.max_attempts, limits = excluded.limits, seen_at = sf_now(),
    declared_at = CASE WHEN (known.queue, known.owner, known.critical, known.isolated, known.timeout_s, known.max_attempts, known.limits)
        IS DISTINCT FROM (excluded.queue, excluded.owner, excluded.critical, excluded.isolated, excluded.timeout_s,
                          excluded.max_attempts, excluded.limits)
        THEN sf_now() ELSE known.declared_at END
