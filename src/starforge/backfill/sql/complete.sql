-- complete: partitions are made, in the transaction of their effects; an attempt that another followed makes nothing.  (B-24)
-- takes   backfill_job_ids uuid[], ordinals bigint[], queue_job_ids uuid[], attempt_counts integer[], code versions text[],
--         durations float8[] in ms (one attempt each)
-- gives   rows (queue_job_id); those that are missing are over, and their transaction must not commit
-- index   backfill_partitions_pkey
WITH done AS (
    UPDATE backfill_partitions AS p
    SET state = 'completed', completed_at = sf_now(), updated_at = sf_now(), error_message = NULL, fingerprint = NULL,
        duration_ms = a.duration_ms, code_version = a.code_version
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::integer[], $5::text[], $6::float8[])
        AS a (backfill_job_id, ordinal, queue_job_id, attempt_count, code_version, duration_ms)
    WHERE p.backfill_job_id = a.backfill_job_id AND p.ordinal = a.ordinal
      AND p.state = 'running' AND p.queue_job_id = a.queue_job_id AND p.attempt_count = a.attempt_count
    RETURNING p.backfill_job_id, p.ordinal, p.tenant_id, p.attempt_count, p.duration_ms, p.queue_job_id, p.partition_key
), ended AS (
    INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count, duration_ms, partition_key)
    SELECT backfill_job_id, ordinal, tenant_id, 'completed', attempt_count, duration_ms, partition_key FROM done
)
SELECT queue_job_id FROM done
