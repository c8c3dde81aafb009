-- cancel_running: running jobs that are not wanted any more leave for history, and are counted.        (X-03, D-12, G3)
-- takes   ids uuid[], lease epochs bigint[], reasons text[], durations real[] in ms, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey, job_progress_pkey, job_minutes_pkey; sub-selects and CASE hide from the planner how many jobs
--         run, which its statistics misjudge, and ANY (ARRAY[…]) leaves it no join but the one probe per job
WITH gone AS (
    DELETE FROM queue_jobs AS job
    USING unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::text[]), (SELECT $4::real[]))
        AS ended (id, lease_epoch, reason, ran_ms)
    WHERE job.id = ANY (ARRAY[ended.id])
      AND CASE WHEN job.status = 'running' AND job.worker_id = $5
               AND job.lease_epoch = ended.lease_epoch THEN true ELSE false END
    RETURNING job.*, ended.reason, ended.ran_ms
), kept AS (
    INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts, run_after,
                             last_error, worker_id, lease_epoch, created_at, started_at, completed_at, ran_ms, tags, trace, kills,
                             reason)
    SELECT id, tenant_id, queue, type, payload, priority, 'cancelled', attempts, max_attempts, run_after,
           last_error, worker_id, lease_epoch, created_at, updated_at, sf_now(), ran_ms, tags, trace, kills,
           coalesce(cancel_reason, reason)
    FROM gone
), forgotten AS (
    DELETE FROM job_progress AS said USING gone WHERE said.job_id = gone.id
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, cancelled)
    SELECT date_trunc('minute', sf_now()), queue, type, $5, count(*) FROM gone GROUP BY queue, type ORDER BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE SET cancelled = job_minutes.cancelled + excluded.cancelled
)
SELECT id FROM gone
