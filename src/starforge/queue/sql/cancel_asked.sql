-- cancel_asked: jobs that no worker holds any more, and whose cancellation was asked for while one did, leave for history.
-- takes   ids uuid[]
-- gives   the ids that left
-- index   queue_jobs_pkey, job_progress_pkey
WITH gone AS (
    DELETE FROM queue_jobs
    WHERE id = ANY ($1::uuid[]) AND status <> 'running' AND cancel_reason IS NOT NULL
    RETURNING *
), kept AS (
    INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts, run_after,
                             last_error, worker_id, lease_epoch, created_at, completed_at, tags, trace, kills, reason)
    SELECT id, tenant_id, queue, type, payload, priority, 'cancelled', attempts, max_attempts, run_after,
           last_error, worker_id, lease_epoch, created_at, sf_now(), tags, trace, kills, cancel_reason
    FROM gone
), forgotten AS (
    DELETE FROM job_progress AS said USING gone WHERE said.job_id = gone.id
)
SELECT id FROM gone
