-- workers_knowing: how many live workers run jobs of a type in a queue.                              (B-67)
-- takes   queue text, type text
-- gives   one row (workers)
-- index   workers_live
SELECT count(*)::int AS workers
FROM workers
WHERE state = 'running' AND lease_expires_at > sf_now() AND $1 = ANY (queues) AND $2 = ANY (types)
