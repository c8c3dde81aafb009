-- lives: whether a worker holds its lease.
-- takes   worker_id uuid
-- gives   its id, or none
-- index   workers_pkey
SELECT id FROM workers WHERE id = $1 AND state IN ('running', 'stopping') AND lease_expires_at > sf_now()
