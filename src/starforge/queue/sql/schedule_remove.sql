-- schedule_remove: a schedule is forgotten; the jobs it made stay.
-- takes   tenant_id text, name text
-- gives   the name, or none where there is no such schedule
-- index   schedules_pkey
DELETE FROM schedules WHERE tenant_id = $1 AND name = $2 RETURNING name
