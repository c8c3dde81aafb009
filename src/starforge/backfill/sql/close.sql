-- close: a backfill that was ended by somebody is over: what it had in hand has ended and is counted.      (B-03, B-28)
-- takes   id uuid
-- gives   one row (id), or none: something of it is open
-- index   backfill_jobs_pkey, backfill_partitions_pkey
UPDATE backfill_jobs AS b
SET closed_at = sf_now(), completed_at = coalesce(b.completed_at, sf_now()), updated_at = sf_now(), worker_id = NULL,
    estimated_completion_at = NULL, eta_low_at = NULL, eta_high_at = NULL, eta_basis = NULL
WHERE b.id = $1 AND b.state IN ('completed', 'failed', 'cancelled')
  AND NOT EXISTS (SELECT FROM backfill_partitions AS p WHERE p.backfill_job_id = $1 AND p.state IN ('pending', 'running'))
  AND NOT EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = $1)
RETURNING b.id
