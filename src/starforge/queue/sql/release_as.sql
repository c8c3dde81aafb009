-- release_as: a job that waits or is quarantined is pending as one of another type; its last error stays.  (O-44)
-- takes   id uuid, type text, priority int
-- gives   one row (id), or none where it is neither
-- index   queue_jobs_pkey; as release where it was quarantined
UPDATE queue_jobs
SET type = $2, priority = $3, run_after = CASE WHEN status = 'quarantined' THEN sf_now() ELSE run_after END,
    status = 'pending', worker_id = NULL, updated_at = sf_now(), suspect = suspect OR kills > 0, kills = 0, reclaims = 0
WHERE id = $1 AND status IN ('pending', 'quarantined')
RETURNING id
