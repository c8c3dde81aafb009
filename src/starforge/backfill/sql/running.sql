-- running: for how long those of these partitions that run have been running.                                   (B-17, B-48)
-- takes   backfill_job_id uuid, ordinals bigint[]
-- gives   rows (ordinal, age_s); those whose job waits, as after a snooze or the end of a worker, do not run
-- index   backfill_partitions_pkey, queue_jobs_pkey
SELECT p.ordinal, greatest(0, extract(epoch FROM sf_now() - p.started_at))::float8 AS age_s
FROM backfill_partitions AS p
WHERE p.backfill_job_id = $1 AND p.ordinal = ANY ($2::bigint[]) AND p.state = 'running'
  AND EXISTS (SELECT FROM queue_jobs AS j WHERE j.id = p.queue_job_id AND j.status = 'running')
