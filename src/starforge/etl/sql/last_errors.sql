-- last_errors: the newest errors of the ETL.
-- takes   limit integer, characters integer: so much of each message
-- gives   a row per error, newest first
-- index   etl_errors_created
SELECT id, snapshot_id, job_id, source, error_type, left(message, $2) AS message,
       extract(epoch FROM sf_now() - created_at)::float8 AS age_s
FROM etl_errors
ORDER BY created_at DESC
LIMIT $1
