-- reprioritize: what waits under a limit key has another priority.                                (B-45)
-- takes   queue text, type text, tenant_id text, limit_key text, priority int
-- gives   rows (id)
-- index   queue_jobs_lane
UPDATE queue_jobs SET priority = $5, updated_at = sf_now()
WHERE status = 'pending' AND queue = $1 AND type = $2 AND tenant_id = $3 AND limit_key = $4 AND priority <> $5
RETURNING id
