-- forget_partitions: some partitions of a backfill that ended long ago are forgotten; what they made stays known.   (D-20)
-- takes   backfill_job_id uuid, most int
-- gives   one row (count). The backfill says from then on that it had fewer, so that it adds up at every moment
-- index   backfill_partitions_pkey, backfill_made_pkey, backfill_jobs_pkey
WITH gone AS (
    DELETE FROM backfill_partitions
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM backfill_partitions WHERE backfill_job_id = $1 ORDER BY ordinal LIMIT $2))
    RETURNING ordinal, partition_key, state, coalesce(completed_at, updated_at) AS completed_at, code_version
), kept AS (
    INSERT INTO backfill_made AS known (tenant_id, asset_name, ordinal, partition_key, completed_at, code_version)
    SELECT b.tenant_id, b.asset_name, gone.ordinal, gone.partition_key, gone.completed_at, gone.code_version
    FROM gone JOIN backfill_jobs AS b ON b.id = $1
    WHERE gone.state = 'completed'
    ON CONFLICT (tenant_id, asset_name, ordinal, partition_key) DO UPDATE
    SET completed_at = excluded.completed_at, code_version = excluded.code_version
    WHERE known.completed_at < excluded.completed_at
), counted AS (
    SELECT count(*)::int AS total, count(*) FILTER (WHERE state = 'completed')::int AS completed,
           count(*) FILTER (WHERE state = 'failed')::int AS failed, count(*) FILTER (WHERE state = 'cancelled')::int AS cancelled
    FROM gone
)
UPDATE backfill_jobs AS b
SET total_partitions = b.total_partitions - counted.total, completed_partitions = b.completed_partitions - counted.completed,
    failed_partitions = b.failed_partitions - counted.failed, cancelled_partitions = b.cancelled_partitions - counted.cancelled,
    look = NULL, updated_at = sf_now()
FROM counted
WHERE b.id = $1
RETURNING counted.total AS count
