-- silent: workers that hold slots of a backfill and were not heard of for longer than half of their lease.  (B-36, G5)
-- takes   job_type text, limit key text: the backfill's id
-- gives   rows (id, host, pid, silent_s, lease_expires_at, over: the lease has ended and nobody has buried it yet, slots), the most
--         silent first
-- index   none of workers, of which there are few; limit_tokens_pkey
SELECT w.id, w.host, w.pid, extract(epoch FROM sf_now() - w.heartbeat_at)::float8 AS silent_s, w.lease_expires_at,
       w.lease_expires_at <= sf_now() AS over, held.slots
FROM workers AS w
CROSS JOIN LATERAL (
    SELECT count(*)::int AS slots FROM limit_tokens AS t
    WHERE t.scope = 'type' AND t.name = $1 AND t.key = $2 AND t.worker_id = w.id
) AS held
WHERE w.state IN ('running', 'stopping') AND held.slots > 0
  AND sf_now() - w.heartbeat_at > (w.lease_expires_at - w.heartbeat_at) / 2
ORDER BY w.heartbeat_at
