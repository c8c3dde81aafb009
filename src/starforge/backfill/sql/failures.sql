-- failures: a backfill's failed partitions, grouped by what failed.                                (B-33, B-42, B-70)
-- takes   backfill_job_id uuid, most int
-- gives   rows (fingerprint, message of the first one, count, its first keys, last_at), the most frequent first
-- index   backfill_partitions_pkey, all of the backfill's rows
WITH failed AS (
    SELECT fingerprint, CASE WHEN fingerprint IS NULL THEN error_message END AS alike, partition_key, ordinal, error_message,
           completed_at,
           row_number() OVER (PARTITION BY fingerprint, CASE WHEN fingerprint IS NULL THEN error_message END ORDER BY ordinal) AS nth
    FROM backfill_partitions
    WHERE backfill_job_id = $1 AND tenant_id = sf_tenant() AND state = 'failed'
)
SELECT fingerprint, coalesce(max(error_message) FILTER (WHERE nth = 1), '') AS message, count(*) AS count,
       array_agg(partition_key ORDER BY ordinal) FILTER (WHERE nth <= 5) AS keys, max(completed_at) AS last_at
FROM failed
GROUP BY fingerprint, alike
ORDER BY count(*) DESC, max(completed_at) DESC NULLS LAST
LIMIT $2::int
