-- give_back: a job that found its backfill not running leaves the partition to be fed again.                        (B-17)
-- takes   backfill_job_id uuid, partition_key text, queue_job_id uuid
-- gives   nothing
-- index   backfill_partitions_pkey
UPDATE backfill_partitions
SET queue_job_id = NULL, state = CASE WHEN state = 'running' THEN 'pending' ELSE state END, updated_at = sf_now()
WHERE backfill_job_id = $1 AND partition_key = $2 AND queue_job_id = $3 AND state IN ('pending', 'running')
