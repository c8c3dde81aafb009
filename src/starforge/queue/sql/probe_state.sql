-- probe_state: where a probe's job is, and who could take it.
-- takes   job_id uuid, queue text, type text, stale_s float8
-- gives   one row (status, worker_id, waited_s, workers, unaware, stopping, unasking, full), the last five counting
--         living workers that serve the queue: all; those that do not know the type; those that drain; those that
--         have not asked for work for stale_s; those that hold as many jobs as they run at once. Status is null where
--         the job is gone
-- index   queue_jobs_pkey, job_history_id, workers_live
WITH job AS (
    SELECT status, worker_id, NULL::float8 AS waited_s FROM queue_jobs WHERE id = $1
    UNION ALL
    SELECT status, worker_id, extract(epoch FROM coalesce(started_at, completed_at) - created_at)::float8
    FROM job_history WHERE id = $1
    LIMIT 1
), serving AS (
    SELECT w.*, (SELECT count(*) FROM queue_jobs j WHERE j.status = 'running' AND j.worker_id = w.id) AS holds
    FROM workers w
    WHERE w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now() AND $2 = ANY (w.queues)
)
SELECT (SELECT status FROM job) AS status, (SELECT worker_id FROM job) AS worker_id, (SELECT waited_s FROM job) AS waited_s,
       count(*) AS workers,
       count(*) FILTER (WHERE $3 <> ALL (types)) AS unaware,
       count(*) FILTER (WHERE state = 'stopping') AS stopping,
       count(*) FILTER (WHERE state = 'running' AND coalesce(claimed_at, started_at) < heartbeat_at - make_interval(secs => $4)
                              AND holds < concurrency) AS unasking,
       count(*) FILTER (WHERE state = 'running' AND holds >= concurrency) AS full
FROM serving
