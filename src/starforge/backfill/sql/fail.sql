-- fail: an attempt at a partition failed; the last one that its backfill allows ends it.                            (B-33)
-- takes   backfill_job_id uuid, partition_key text, queue_job_id uuid, final boolean, error_message text, fingerprint text
-- gives   one row (attempt_count), or none: the attempt was over
-- index   backfill_partitions_pkey
UPDATE backfill_partitions
SET state = CASE WHEN $4 THEN 'failed' ELSE 'pending' END, error_message = $5, fingerprint = $6, updated_at = sf_now(),
    completed_at = CASE WHEN $4 THEN sf_now() END, queue_job_id = CASE WHEN $4 THEN NULL ELSE queue_job_id END,
    duration_ms = extract(epoch FROM clock_timestamp() - started_at) * 1000
WHERE backfill_job_id = $1 AND partition_key = $2 AND queue_job_id = $3 AND state = 'running'
RETURNING attempt_count
