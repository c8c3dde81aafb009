-- roll: the workers as their registry knows them, those that ended lately included.              (O-14, O-49, B-39, B-41)
-- takes   ended_s float8: how long ago a worker may have ended to be there, limit int
-- gives   a row per worker, the living first, then the newest
-- index   none: the registry is small
WITH held AS (
    SELECT worker_id, count(*) AS holds FROM queue_jobs WHERE status = 'running' GROUP BY worker_id
)
SELECT w.id, w.host, w.pid, w.version, w.state, w.queues, w.concurrency, w.high_memory, w.rss_bytes,
       w.memory_limit_bytes, w.jobs_finished, w.previous_id, w.stop_reason, w.started_at, w.stopped_at,
       w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now() AS lives,
       extract(epoch FROM sf_now() - w.started_at)::float8 AS age_s,
       extract(epoch FROM sf_now() - w.heartbeat_at)::float8 AS heartbeat_age_s,
       extract(epoch FROM w.heartbeat_at - w.claimed_at)::float8 AS claim_age_s,
       coalesce(held.holds, 0) AS holds
FROM workers AS w
LEFT JOIN held ON held.worker_id = w.id
WHERE w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now()
   OR coalesce(w.stopped_at, w.lease_expires_at) > sf_now() - make_interval(secs => $1)
ORDER BY lives DESC, w.started_at DESC
LIMIT $2
