-- finish: all partitions are over and counted: the backfill is completed, or failed where more failed than it tolerates.
-- takes   id uuid
-- gives   one row (state), or none: a partition is open all the same
-- index   backfill_jobs_pkey, backfill_partitions_pkey
UPDATE backfill_jobs AS b
SET state = CASE WHEN b.failed_partitions > b.failed_max THEN 'failed' ELSE 'completed' END,
    error_message = CASE WHEN b.failed_partitions > b.failed_max THEN
        format('%s of %s partitions failed, and %s are tolerated', b.failed_partitions, b.total_partitions, b.failed_max) END,
    completed_at = sf_now(), closed_at = sf_now(), updated_at = sf_now(), version = b.version + 1,
    estimated_completion_at = NULL, eta_low_at = NULL, eta_high_at = NULL, eta_basis = NULL, pace = 1, pace_reason = NULL
WHERE b.id = $1 AND b.state = 'running'
  AND b.completed_partitions + b.failed_partitions + b.cancelled_partitions = b.total_partitions
  AND NOT EXISTS (SELECT FROM backfill_partitions AS p WHERE p.backfill_job_id = $1 AND p.state IN ('pending', 'running'))
  AND NOT EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = $1)
RETURNING b.state
