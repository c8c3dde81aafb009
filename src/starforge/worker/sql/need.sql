-- need: what a job of each of these types was seen to use; what is known to be more stays, until it has faded.   (O-36)
-- takes   names text[], bytes bigint[], half_life_h float8
-- gives   nothing
-- index   job_types_pkey
INSERT INTO job_types AS known (name, queue, peak_bytes, peak_at)
SELECT seen.name, 'default', seen.bytes, sf_now()
FROM unnest($1::text[], $2::bigint[]) AS seen (name, bytes)
ORDER BY seen.name
ON CONFLICT (name) DO UPDATE SET peak_bytes = excluded.peak_bytes, peak_at = excluded.peak_at
WHERE known.peak_bytes IS NULL OR known.peak_at IS NULL
   OR excluded.peak_bytes >= known.peak_bytes
      * 0.5 ^ (greatest(0, extract(epoch FROM sf_now() - known.peak_at)) / 3600 / $3)
