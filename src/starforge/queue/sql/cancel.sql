-- cancel: jobs that wait or are held leave for history as cancelled; running ones are asked to end.       (D-19)
-- takes   ids uuid[], reason text
-- gives   rows (id, status before, or cancelling where that was asked for before); those that do not exist, or have
--         ended, are missing
-- index   queue_jobs_pkey, job_progress_pkey; locked in the order of the ids, so that no two cancels wait in a circle; ANY
--         (ARRAY[…]) leaves no join but probes
WITH found AS (
    SELECT id, CASE WHEN status = 'running' AND cancel_reason IS NOT NULL THEN 'cancelling' ELSE status END AS status
    FROM queue_jobs WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE
), asked AS (
    UPDATE queue_jobs AS job SET cancel_reason = $2
    FROM found WHERE job.id = ANY (ARRAY[found.id]) AND found.status = 'running'
), gone AS (
    DELETE FROM queue_jobs AS job USING found WHERE job.id = ANY (ARRAY[found.id]) AND found.status NOT IN ('running', 'cancelling')
    RETURNING job.*
), kept AS (
    INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts, run_after,
                             last_error, worker_id, lease_epoch, created_at, completed_at, tags, trace, kills, reason)
    SELECT id, tenant_id, queue, type, payload, priority, 'cancelled', attempts, max_attempts, run_after,
           last_error, worker_id, lease_epoch, created_at, sf_now(), tags, trace, kills, $2
    FROM gone
), forgotten AS (
    DELETE FROM job_progress AS said USING gone WHERE said.job_id = gone.id
)
SELECT id, status FROM found
