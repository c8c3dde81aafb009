-- size_marks: which size half, and 95 of 100, of a tenant's snapshots do not exceed.                         (O-41)
-- takes   tenant_id text, since_s float8 or null
-- gives   one row (p50, p95; null where there is none)
-- index   hero_snapshots_created
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY size_bytes) AS p50,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY size_bytes) AS p95
FROM hero_snapshots
WHERE tenant_id = $1 AND created_at >= coalesce(sf_now() - make_interval(secs => $2), '-infinity')
