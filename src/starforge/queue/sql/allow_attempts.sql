-- allow_attempts: what waits or runs under a limit key may fail more often, or less, than before.  (B-45)
-- takes   queue text, type text, tenant_id text, limit_key text, more int (less: below zero), most int
-- gives   rows (id, status); each keeps one attempt at least
-- index   none for those that run: the queue is read once, for an act of a person
UPDATE queue_jobs SET max_attempts = least($6, greatest(1, max_attempts + $5)), updated_at = sf_now()
WHERE status IN ('pending', 'running') AND queue = $1 AND type = $2 AND tenant_id = $3 AND limit_key = $4
RETURNING id, status
