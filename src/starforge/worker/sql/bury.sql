-- bury: a worker whose process is known to be gone is dead before its lease runs out.
-- takes   id uuid, reason text
-- gives   the id, or none when the lease was over already
-- index   workers_pkey
UPDATE workers
SET state = 'dead', stopped_at = sf_now(), stop_reason = $2
WHERE id = $1 AND state IN ('running', 'stopping')
RETURNING id
