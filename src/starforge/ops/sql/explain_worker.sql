-- explain_worker: one worker with what it holds.                                                  (X-19)
-- takes   the beginning of its id text
-- gives   up to two rows; two mean that the beginning is not enough
-- index   none: the registry is small
SELECT w.id, w.host, w.pid, w.state, w.version, w.queues, w.types, w.concurrency, w.started_at, w.stopped_at, w.stop_reason,
       w.lease_expires_at > sf_now() AS lease_holds,
       extract(epoch FROM sf_now() - w.heartbeat_at)::float8 AS heartbeat_age_s,
       (SELECT count(*) FROM queue_jobs j WHERE j.status = 'running' AND j.worker_id = w.id) AS holds,
       (SELECT count(*) FROM job_kills k WHERE k.worker_id = w.id) AS kills
FROM workers AS w
WHERE w.id::text LIKE $1 || '%'
LIMIT 2
