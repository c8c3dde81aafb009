-- advance: how far an attempt came inside its partition is kept for the next one.                                  (B-24)
-- takes   backfill_job_id uuid, ordinal bigint, queue_job_id uuid, attempt_count integer, cursor jsonb
-- gives   one row (ordinal), or none: the attempt is over
-- index   backfill_partitions_pkey
UPDATE backfill_partitions SET cursor = $5, updated_at = sf_now()
WHERE backfill_job_id = $1 AND ordinal = $2 AND queue_job_id = $3 AND attempt_count = $4 AND state = 'running'
RETURNING ordinal
