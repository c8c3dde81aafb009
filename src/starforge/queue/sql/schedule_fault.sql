-- schedule_fault: why a schedule's ticks cannot become jobs; they stay due.
-- takes   tenant_id text, name text, fault text
-- gives   nothing
-- index   schedules_pkey
UPDATE schedules SET fault = $3, fault_at = sf_now() WHERE tenant_id = $1 AND name = $2
