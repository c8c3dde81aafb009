-- fail: an attempt at a partition failed; the last one that its backfill allows ends it.                            (B-33)
-- takes   backfill_job_id uuid, ordinal bigint, queue_job_id uuid, final boolean, error_message text, fingerprint text
-- gives   one row (attempt_count), or none: the attempt was over
-- index   backfill_partitions_pkey
WITH failed AS (
    UPDATE backfill_partitions
    SET state = CASE WHEN $4 THEN 'failed' ELSE 'pending' END, error_message = $5, fingerprint = $6, updated_at = sf_now(),
        completed_at = CASE WHEN $4 THEN sf_now() END, duration_ms = extract(epoch FROM sf_now() - started_at) * 1000
    WHERE backfill_job_id = $1 AND ordinal = $2 AND queue_job_id = $3 AND state = 'running'
    RETURNING backfill_job_id, ordinal, tenant_id, state, attempt_count, duration_ms, partition_key, fingerprint, error_message
), ended AS (
    INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count, duration_ms, partition_key,
                                fingerprint, error_message)
    SELECT backfill_job_id, ordinal, tenant_id, CASE state WHEN 'failed' THEN 'failed' ELSE 'retried' END, attempt_count,
           duration_ms, partition_key, fingerprint, error_message
    FROM failed
)
SELECT attempt_count FROM failed
