-- schedule_resume: a pause ends now; its time stays in the row, so that its ticks are not caught up.   (X-11)
-- takes   tenant_id text, name text
-- gives   the name, or none when no pause holds
-- index   schedules_pkey
UPDATE schedules SET paused_until = sf_now()
WHERE tenant_id = $1 AND name = $2 AND paused_until > sf_now()
RETURNING name
