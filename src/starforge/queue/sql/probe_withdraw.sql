-- probe_withdraw: a probe that nobody took in time leaves the queue.
-- takes   job_id uuid, reason text
-- gives   the id, or none where it runs or is through
-- index   queue_jobs_pkey
WITH gone AS (
    DELETE FROM queue_jobs WHERE id = $1 AND status IN ('pending', 'paused', 'failed', 'quarantined') RETURNING *
)
INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts, run_after,
                         worker_id, lease_epoch, created_at, completed_at, reason)
SELECT id, tenant_id, queue, type, payload, priority, 'cancelled', attempts, max_attempts, run_after,
       worker_id, lease_epoch, created_at, sf_now(), $2
FROM gone
RETURNING id
