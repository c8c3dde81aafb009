-- fold: attempts that ended since the last fold are taken out, to be counted in the same transaction.            (B-18, D-14)
-- takes   backfill_job_id uuid, most integer
-- gives   rows (ordinal, outcome, attempt_count, duration_ms, partition_key, fingerprint, error_message, ended_at)
-- index   backfill_ended_job
DELETE FROM backfill_ended
WHERE ctid = ANY (ARRAY (SELECT ctid FROM backfill_ended WHERE backfill_job_id = $1 LIMIT $2))
RETURNING ordinal, outcome, attempt_count, duration_ms, partition_key, fingerprint, error_message, ended_at
