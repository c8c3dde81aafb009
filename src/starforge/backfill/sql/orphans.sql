-- orphans: partitions that run by their row, and whose jobs do not, are given back; where the job was given up, they are
--          too: an attempt that ended with its process, or was held back, could not say so itself.                (B-24, B-33)
-- takes   backfill_job_id uuid, ordinals bigint[]
-- gives   rows (ordinal); an attempt that begins meanwhile has another number, and goes on
-- index   backfill_partitions_pkey, queue_jobs_pkey
WITH seen AS MATERIALIZED (
    SELECT p.ordinal, p.attempt_count, j.last_error,
           CASE WHEN j.status IN ('failed', 'quarantined') THEN 'failed' ELSE 'pending' END AS state
    FROM backfill_partitions AS p LEFT JOIN queue_jobs AS j ON j.id = p.queue_job_id
    WHERE p.backfill_job_id = $1 AND p.ordinal = ANY ($2::bigint[]) AND p.state = 'running' AND j.status IS DISTINCT FROM 'running'
), settled AS (
    UPDATE backfill_partitions AS p
    SET state = seen.state, updated_at = sf_now(), completed_at = CASE seen.state WHEN 'failed' THEN sf_now() END,
        error_message = CASE seen.state WHEN 'failed' THEN coalesce(seen.last_error ->> 'reason', 'its job was given up')
                        ELSE p.error_message END,
        fingerprint = CASE seen.state WHEN 'failed' THEN 'job:' || coalesce(seen.last_error ->> 'error', 'given up')
                      ELSE p.fingerprint END,
        duration_ms = CASE seen.state WHEN 'failed' THEN extract(epoch FROM sf_now() - p.started_at) * 1000 ELSE p.duration_ms END
    FROM seen
    WHERE p.backfill_job_id = $1 AND p.ordinal = seen.ordinal AND p.attempt_count = seen.attempt_count AND p.state = 'running'
    RETURNING p.*
), ended AS (
    INSERT INTO backfill_ended (backfill_job_id, ordinal, tenant_id, outcome, attempt_count, duration_ms, partition_key,
                                fingerprint, error_message)
    SELECT backfill_job_id, ordinal, tenant_id, 'failed', attempt_count, duration_ms, partition_key, fingerprint, error_message
    FROM settled WHERE state = 'failed'
)
SELECT ordinal FROM settled
