-- schedules: all of them, with their pauses and faults.
-- takes   nothing
-- gives   a row per schedule, by name, each with the time of the reading
-- index   none: there are few
SELECT tenant_id, name, type, payload, passes_time, queue, priority, max_attempts, limit_key, same, cron, timezone, missed, next_at, last_at,
       last_job_id, fault, paused_by, pause_reason, paused_at, paused_until, declared_by, declared_at, sf_now() AS now
FROM schedules
ORDER BY name, tenant_id
