-- schedule_keys: each tick is one job's for good; a tick that has a job already gets no second.        (FAULTS 37)
-- takes   tenant_id text, type text, keys text[], job_ids uuid[]
-- gives   rows (job_id) of the ticks that had none
-- index   job_keys_pkey; a week is longer than anybody can be at one tick
INSERT INTO job_keys (tenant_id, type, key, job_id, states, expires_at)
SELECT $1, $2, tick.key, tick.job_id,
       '{pending,running,paused,failed,quarantined,completed,cancelled}', sf_now() + interval '7 days'
FROM unnest($3::text[], $4::uuid[]) AS tick (key, job_id)
ON CONFLICT (tenant_id, type, key) DO NOTHING
RETURNING job_id
