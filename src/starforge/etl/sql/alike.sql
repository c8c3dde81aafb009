-- alike: failures of the snapshots that are stored, those alike together, most first.                             (F-34, F-40)
-- takes   seconds back float8, most integer
-- gives   rows (source, error_type, fingerprint, constraint_name, failures, snapshots, last_at, message: of the last one)
-- index   etl_errors_created, hero_snapshots_pkey
SELECT e.source, e.error_type, e.fingerprint, e.details ->> 'constraint_name' AS constraint_name, count(*) AS failures,
       count(DISTINCT e.snapshot_id) AS snapshots, max(e.created_at) AS last_at,
       left((array_agg(e.message ORDER BY e.created_at DESC))[1], 300) AS message
FROM etl_errors e
JOIN hero_snapshots s ON s.id = e.snapshot_id
WHERE e.created_at > sf_now() - make_interval(secs => $1)
GROUP BY e.source, e.error_type, e.fingerprint, e.details ->> 'constraint_name'
ORDER BY failures DESC, last_at DESC
LIMIT $2
