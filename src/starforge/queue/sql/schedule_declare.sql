-- schedule_declare: an app has this schedule; a changed cron or time zone starts from now.
-- takes   tenant_id text, name text, type text, payload jsonb, passes_time bool, queue text, priority int,
--         max_attempts int or null, limit_key text, same jsonb or null, cron text, timezone text, missed text,
--         next_at timestamptz, declared_by text
-- gives   one row: changed int (1 when it is new or different now), was_by text (who declared it before, or null)
-- index   schedules_pkey
WITH was AS (
    SELECT type, payload, passes_time, queue, priority, max_attempts, limit_key, same, cron, timezone, missed, declared_by
    FROM schedules WHERE tenant_id = $1 AND name = $2
), made AS (
    INSERT INTO schedules AS s (tenant_id, name, type, payload, passes_time, queue, priority, max_attempts, limit_key, same,
                                cron, timezone, missed, next_at, declared_by, declared_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, sf_now())
    ON CONFLICT (tenant_id, name) DO UPDATE
    SET type = excluded.type, payload = excluded.payload, passes_time = excluded.passes_time, queue = excluded.queue,
        priority = excluded.priority, max_attempts = excluded.max_attempts, limit_key = excluded.limit_key,
        same = excluded.same, cron = excluded.cron, timezone = excluded.timezone,
        missed = excluded.missed, declared_by = excluded.declared_by, declared_at = excluded.declared_at,
        fault = NULL, fault_at = NULL,
        next_at = CASE WHEN s.cron = excluded.cron AND s.timezone = excluded.timezone THEN s.next_at ELSE excluded.next_at END
    RETURNING type, payload, passes_time, queue, priority, max_attempts, limit_key, same, cron, timezone, missed
)
SELECT CASE WHEN (was.type, was.payload, was.passes_time, was.queue, was.priority, was.max_attempts, was.limit_key, was.same,
             was.cron, was.timezone, was.missed)
            IS NOT DISTINCT FROM
            (made.type, made.payload, made.passes_time, made.queue, made.priority, made.max_attempts, made.limit_key,
             made.same, made.cron, made.timezone, made.missed)
            THEN 0 ELSE 1 END AS changed,
       was.declared_by AS was_by
FROM made LEFT JOIN was ON true
