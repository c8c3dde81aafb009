-- schedule_advance: a schedule's due ticks are dealt with, once, by the leader.                        (FAULTS 24, 37)
-- takes   tenant_id text, name text, next_at timestamptz, cron text, timezone text as they were read; the new next_at;
--         last_at timestamptz and last_job_id uuid or nulls; the leader's lease: name text, holder uuid, epoch bigint
-- gives   the name, or none when another dealt with them, the schedule was declared anew, or the lease is over
-- index   schedules_pkey, leases_pkey
UPDATE schedules
SET next_at = $6, last_at = coalesce($7, last_at), last_job_id = coalesce($8, last_job_id), fault = NULL, fault_at = NULL
WHERE tenant_id = $1 AND name = $2 AND next_at = $3 AND cron = $4 AND timezone = $5
  AND EXISTS (SELECT 1 FROM leases l WHERE l.name = $9 AND l.holder = $10 AND l.epoch = $11 AND l.expires_at > sf_now())
RETURNING name
