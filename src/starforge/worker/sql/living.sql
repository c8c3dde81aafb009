-- living: the workers of one machine that still hold a lease, to be held against its process list.
-- takes   machine text
-- gives   rows (id, pid, pid_started_s)
-- index   workers_live
SELECT id, pid, pid_started_s FROM workers
WHERE state IN ('running', 'stopping') AND machine = $1
