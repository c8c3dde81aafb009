-- needs: what a job of each type uses of memory; half as much for every half-life since it was seen.             (O-36)
-- takes   half_life_h float8, least_bytes bigint
-- gives   rows (name, need_bytes)
-- index   none: as many rows as there are types
SELECT name, need_bytes
FROM (
    SELECT name, (peak_bytes * 0.5 ^ (greatest(0, extract(epoch FROM sf_now() - peak_at)) / 3600 / $1))::bigint AS need_bytes
    FROM job_types
    WHERE peak_bytes IS NOT NULL AND peak_at IS NOT NULL
) AS faded
WHERE need_bytes >= $2
