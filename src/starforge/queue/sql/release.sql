-- release: a quarantined job may run again; what it was held for stays in its last error.             (D-19)
-- takes   id uuid
-- gives   one row (last_error as it was held), or none when it is not quarantined
-- index   queue_jobs_pkey; workers that died under it are forgotten, and the next attempt runs alone where there were any
UPDATE queue_jobs
SET status = 'pending', run_after = sf_now(), worker_id = NULL, updated_at = sf_now(), suspect = suspect OR kills > 0,
    kills = 0, reclaims = 0
WHERE id = $1 AND status = 'quarantined'
RETURNING last_error
