-- schedule_pause: no tick from now on becomes a job until the pause expires or is resumed.             (X-11)
-- takes   tenant_id text, name text, owner text, reason text, minutes int
-- gives   nothing; a pause that holds is renewed
-- index   schedules_pkey
UPDATE schedules
SET paused_by = $3, pause_reason = $4, paused_until = sf_now() + make_interval(mins => $5),
    paused_at = CASE WHEN paused_until > sf_now() THEN paused_at ELSE sf_now() END
WHERE tenant_id = $1 AND name = $2
