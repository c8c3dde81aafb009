-- schedules_due: those that have a tick to deal with; a faulty one is tried again every minute.        (FAULTS 24)
-- takes   most int
-- gives   rows as `schedules` gives them, the longest due first
-- index   schedules_next
SELECT tenant_id, name, type, payload, passes_time, queue, priority, max_attempts, limit_key, same, cron, timezone, missed, next_at, last_at,
       last_job_id, fault, paused_by, pause_reason, paused_at, paused_until, declared_by, declared_at, sf_now() AS now
FROM schedules
WHERE next_at <= sf_now() AND (fault_at IS NULL OR fault_at <= sf_now() - interval '1 minute')
ORDER BY next_at
LIMIT $1
