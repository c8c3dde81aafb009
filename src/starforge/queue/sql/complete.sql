-- complete: running jobs leave for history and their leases end.                            (X-03, D-12, G3)
-- takes   ids uuid[], lease epochs bigint[], durations real[] in ms, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey; sub-selects and CASE hide from the planner what its statistics misjudge: how many
--         jobs run, so that it never leaves the one probe per job
WITH gone AS (
    DELETE FROM queue_jobs AS job
    USING unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::real[])) AS done (id, lease_epoch, ran_ms)
    WHERE job.id = done.id
      AND CASE WHEN job.status = 'running' AND job.worker_id = $4
               AND job.lease_epoch = done.lease_epoch THEN true ELSE false END
    RETURNING job.*, done.ran_ms
), kept AS (
    INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts, run_after,
                             last_error, worker_id, lease_epoch, created_at, started_at, completed_at, ran_ms)
    SELECT id, tenant_id, queue, type, payload, priority, 'completed', attempts, max_attempts, run_after,
           last_error, worker_id, lease_epoch, created_at, updated_at, sf_now(), ran_ms
    FROM gone
)
SELECT id FROM gone
