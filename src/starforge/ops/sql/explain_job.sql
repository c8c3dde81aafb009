-- explain_job: a job wherever it is now, with what else decides whether it starts.               (X-19)
-- takes   id uuid
-- gives   one row of its place (queue, history), its columns, its progress, its worker's state, and of the live workers
--         how many serve its queue, how many of those know its type, and how many jobs are due before it; none where
--         there is no such job
-- index   queue_jobs_pkey, job_history_id, queue_jobs_lane, workers_live
WITH job AS (
    SELECT 'queue' AS place, id, tenant_id, queue, type, status, priority, attempts, max_attempts, kills, run_after, last_error,
           worker_id, created_at, updated_at, limit_key, tags, suspect OR kills > 0 OR reclaims >= 2 AS alone, cancel_reason,
           NULL::timestamptz AS ended_at, NULL::real AS ran_ms, NULL::text AS reason
    FROM queue_jobs WHERE id = $1
    UNION ALL
    SELECT 'history', id, tenant_id, queue, type, status, priority, attempts, max_attempts, kills, run_after, last_error,
           worker_id, created_at, started_at, '', tags, false, NULL, completed_at, ran_ms, reason
    FROM job_history WHERE id = $1
)
SELECT job.*, sf_now() AS now, job.run_after <= sf_now() AS due,
       progress.done, progress.total, progress.message,
       owner.state AS worker_state, owner.host AS worker_host, owner.pid AS worker_pid,
       owner.lease_expires_at > sf_now() AS lease_holds,
       extract(epoch FROM sf_now() - owner.heartbeat_at)::float8 AS heartbeat_age_s,
       (SELECT count(*) FROM workers w WHERE w.state = 'running' AND w.lease_expires_at > sf_now()
          AND job.queue = ANY (w.queues)) AS serving,
       (SELECT count(*) FROM workers w WHERE w.state = 'running' AND w.lease_expires_at > sf_now()
          AND job.queue = ANY (w.queues) AND job.type = ANY (w.types)) AS knowing,
       (SELECT count(*) FROM (
            SELECT FROM queue_jobs j
            WHERE job.status = 'pending' AND j.queue = job.queue AND j.type = job.type AND j.priority = job.priority
              AND j.tenant_id = job.tenant_id AND j.limit_key = job.limit_key AND j.status = 'pending'
              AND j.run_after < job.run_after
            LIMIT 100000) AS earlier) AS ahead
FROM job
LEFT JOIN job_progress AS progress ON progress.job_id = job.id AND job.place = 'queue'
LEFT JOIN workers AS owner ON owner.id = job.worker_id
LIMIT 1
