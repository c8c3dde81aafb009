-- live_workers: the workers whose lease holds, and how many jobs each has claimed.
-- takes   limit integer
-- gives   a row per worker, newest first
-- index   workers_live
WITH held AS (
    SELECT worker_id, count(*) AS holds FROM queue_jobs WHERE status = 'running' GROUP BY worker_id
)
SELECT w.id, w.host, w.pid, w.version, w.state, w.queues, w.concurrency, w.started_at,
       extract(epoch FROM sf_now() - w.heartbeat_at)::float8 AS heartbeat_age_s,
       coalesce(held.holds, 0) AS holds
FROM workers AS w
LEFT JOIN held ON held.worker_id = w.id
WHERE w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now()
ORDER BY w.started_at DESC
LIMIT $1
