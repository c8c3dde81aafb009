-- declare: what a worker's app says of its assets; the newest holds.                         (B-69)
-- takes   names text[], job_types text[], schemes text[] of JSON, upstreams text[] of JSON, concurrencies int[],
--         attempts int[], timeouts float8[] in s with nulls, owners text[] with nulls, code_versions text[],
--         digests text[], again interval: what was repeated since then is not written down again,
--         alive interval: what nobody repeated for so long is nobody's any more, most int: digests kept
-- gives   rows (name) of those that were written down: changed, or repeated after a while
-- index   backfill_assets_pkey, in one order, so that two workers that start do not wait for each other in a circle
INSERT INTO backfill_assets AS known
    (name, job_type, scheme, upstream, concurrency, attempts_max, timeout_s, owner, code_version, digest)
SELECT name, job_type, scheme::jsonb, upstream::jsonb, concurrency, attempts_max, timeout_s, owner, code_version, digest
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::int[], $7::float8[], $8::text[], $9::text[], $10::text[])
    AS said (name, job_type, scheme, upstream, concurrency, attempts_max, timeout_s, owner, code_version, digest)
ORDER BY name
ON CONFLICT (name) DO UPDATE
SET job_type = excluded.job_type, scheme = excluded.scheme, upstream = excluded.upstream,
    concurrency = excluded.concurrency, attempts_max = excluded.attempts_max, timeout_s = excluded.timeout_s,
    owner = excluded.owner, code_version = excluded.code_version, digest = excluded.digest,
    declared_at = CASE WHEN known.digest = excluded.digest THEN known.declared_at ELSE sf_now() END,
    seen_at = sf_now(),
    replaced = CASE WHEN known.digest = excluded.digest THEN known.replaced
        ELSE (ARRAY[known.digest] || array_remove(known.replaced, excluded.digest))[1:$13] END
WHERE CASE WHEN known.digest = excluded.digest THEN known.seen_at < sf_now() - $11::interval
           ELSE NOT excluded.digest = ANY (known.replaced) OR known.seen_at < sf_now() - $12::interval END
RETURNING name
