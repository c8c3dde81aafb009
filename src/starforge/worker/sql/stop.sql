-- stop: a worker ends its own lease: `stopping` while it drains, `stopped` at the end.
-- takes   id uuid, state text, reason text
-- gives   the id, or none when the lease was over already
-- index   workers_pkey
UPDATE workers
SET state = $2, stop_reason = $3, stopped_at = CASE WHEN $2 = 'stopped' THEN sf_now() END
WHERE id = $1 AND state IN ('running', 'stopping')
RETURNING id
