-- start: an attempt at a partition begins, while its backfill runs; one that was killed begins anew.             (B-05, B-24)
-- takes   backfill_job_id uuid, partition_key text, queue_job_id uuid
-- gives   one row (asset_name, ordinal, attempt_count, cursor), or none: its backfill does not run, or it is over
-- index   backfill_partitions_pkey, backfill_jobs_pkey
UPDATE backfill_partitions AS p
SET state = 'running', attempt_count = p.attempt_count + 1, started_at = sf_now(), updated_at = sf_now()
FROM backfill_jobs AS b
WHERE p.backfill_job_id = $1 AND p.partition_key = $2 AND p.queue_job_id = $3 AND p.state IN ('pending', 'running', 'failed')
  AND b.id = p.backfill_job_id AND b.state = 'running'
RETURNING b.asset_name, p.ordinal, p.attempt_count, p.cursor
