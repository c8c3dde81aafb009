-- orphans: partitions that run by their row and by no job are given back: somebody took their jobs away.             (B-24)
-- takes   backfill_job_id uuid, ordinals bigint[]
-- gives   rows (ordinal)
-- index   backfill_partitions_pkey, queue_jobs_pkey
UPDATE backfill_partitions AS p
SET state = 'pending', updated_at = sf_now()
WHERE p.backfill_job_id = $1 AND p.ordinal = ANY ($2::bigint[]) AND p.state = 'running'
  AND NOT EXISTS (SELECT FROM queue_jobs AS j WHERE j.id = p.queue_job_id AND j.status IN ('pending', 'running'))
RETURNING p.ordinal
