-- complete: a partition is made, in the transaction of its effects; an attempt that another followed makes nothing.  (B-24)
-- takes   backfill_job_id uuid, partition_key text, queue_job_id uuid, attempt_count integer, code_version text
-- gives   one row (ordinal), or none: the attempt is over, and its transaction must not commit
-- index   backfill_partitions_pkey
WITH done AS (
    UPDATE backfill_partitions
    SET state = 'completed', completed_at = sf_now(), updated_at = sf_now(), error_message = NULL, fingerprint = NULL,
        duration_ms = extract(epoch FROM clock_timestamp() - started_at) * 1000, queue_job_id = NULL
    WHERE backfill_job_id = $1 AND partition_key = $2 AND queue_job_id = $3 AND attempt_count = $4 AND state = 'running'
    RETURNING backfill_job_id, tenant_id, partition_key, ordinal
), made AS (
    INSERT INTO backfill_made AS m (tenant_id, asset_name, ordinal, partition_key, code_version, backfill_id, made_at)
    SELECT done.tenant_id, b.asset_name, done.ordinal, done.partition_key, $5, b.id, sf_now()
    FROM done JOIN backfill_jobs AS b ON b.id = done.backfill_job_id
    ON CONFLICT (tenant_id, asset_name, ordinal) DO UPDATE
    SET partition_key = excluded.partition_key, code_version = excluded.code_version, backfill_id = excluded.backfill_id,
        made_at = excluded.made_at
)
SELECT ordinal FROM done
