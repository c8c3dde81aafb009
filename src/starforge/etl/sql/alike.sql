-- alike: failures of snapshots that are alike, most first.                                                        (F-34, F-40)
-- takes   seconds back float8, most integer
-- gives   rows (source, error_type, fingerprint, constraint_name, failures, snapshots, last_at, message: of the last one)
-- index   etl_errors_created
SELECT source, error_type, fingerprint, details ->> 'constraint_name' AS constraint_name, count(*) AS failures,
       count(DISTINCT snapshot_id) AS snapshots, max(created_at) AS last_at,
       left((array_agg(message ORDER BY created_at DESC))[1], 300) AS message
FROM etl_errors
WHERE snapshot_id IS NOT NULL AND created_at > sf_now() - make_interval(secs => $1)
GROUP BY source, error_type, fingerprint, details ->> 'constraint_name'
ORDER BY failures DESC, last_at DESC
LIMIT $2
