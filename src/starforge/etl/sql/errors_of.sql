-- errors_of: what went wrong with a snapshot.
-- takes   snapshot_id uuid, characters int: so much of each message, most int
-- gives   rows (id, job_id, error_type, message, path, fingerprint, created_at), the latest first
-- index   etl_errors_snapshot
SELECT id, job_id, error_type, left(message, $2) AS message, details ->> 'path' AS path, fingerprint, created_at
FROM etl_errors
WHERE snapshot_id = $1
ORDER BY created_at DESC
LIMIT $3
