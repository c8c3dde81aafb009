-- schedule: one of them, locked for the change that follows.
-- takes   tenant_id text, name text
-- gives   one row as `schedules` gives it, or none
-- index   schedules_pkey
SELECT tenant_id, name, type, payload, passes_time, queue, priority, max_attempts, limit_key, same, cron, timezone, missed, next_at, last_at,
       last_job_id, fault, paused_by, pause_reason, paused_at, paused_until, declared_by, declared_at, sf_now() AS now
FROM schedules
WHERE tenant_id = $1 AND name = $2
FOR UPDATE
