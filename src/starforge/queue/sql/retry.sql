-- retry: running jobs that failed wait for their next attempt.                              (X-03, D-12, G3)
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[], delays float8[] in seconds, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey
UPDATE queue_jobs AS job
SET status = 'pending', attempts = job.attempts + 1, last_error = failed.error, worker_id = NULL,
    run_after = sf_now() + make_interval(secs => failed.delay_s), updated_at = sf_now()
FROM unnest($1::uuid[], $2::bigint[], $3::jsonb[], $4::float8[]) AS failed (id, lease_epoch, error, delay_s)
WHERE job.id = failed.id AND job.status = 'running' AND job.worker_id = $5
  AND job.lease_epoch = failed.lease_epoch
RETURNING job.id
