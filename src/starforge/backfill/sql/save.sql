-- save: what a coordinator counted and worked out, while it holds the row.                                (B-18, B-30, B-49)
-- takes   id uuid, completed integer, failed integer, cancelled integer (more than before), checkpoint_ordinal bigint,
--         average ms float8, eta p10, p50, p90 float8 in s from now (null: none), eta basis text, eta state jsonb,
--         look jsonb, pace float8, pace reason text, beat boolean, progressed boolean
-- gives   one row (heartbeat_at)
-- index   backfill_jobs_pkey, backfill_partitions_pkey
UPDATE backfill_jobs
SET completed_partitions = completed_partitions + $2, failed_partitions = failed_partitions + $3,
    cancelled_partitions = cancelled_partitions + $4,
    checkpoint_ordinal = $5,
    checkpoint_partition_key = CASE WHEN $5 IS NOT DISTINCT FROM checkpoint_ordinal THEN checkpoint_partition_key
        ELSE (SELECT p.partition_key FROM backfill_partitions AS p WHERE p.backfill_job_id = $1 AND p.ordinal = $5) END,
    avg_partition_duration_ms = coalesce($6, avg_partition_duration_ms),
    eta_low_at = sf_now() + make_interval(secs => $7), estimated_completion_at = sf_now() + make_interval(secs => $8),
    eta_high_at = sf_now() + make_interval(secs => $9), eta_basis = $10, eta_state = coalesce($11, eta_state),
    look = $12, pace = $13, pace_reason = $14,
    heartbeat_at = CASE WHEN $15 THEN sf_now() ELSE heartbeat_at END,
    progress_at = CASE WHEN $16 THEN sf_now() ELSE progress_at END, updated_at = sf_now()
WHERE id = $1
RETURNING heartbeat_at
