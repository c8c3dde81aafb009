-- quarantine: running jobs are held back with their reason until they are released; no attempt is burnt.
-- takes   ids uuid[], lease epochs bigint[], errors jsonb[] with reason, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey; sub-selects and CASE hide from the planner what its statistics misjudge: how many
--         jobs run, so that it never leaves the one probe per job
UPDATE queue_jobs AS job
SET status = 'quarantined', last_error = held.error, worker_id = NULL, updated_at = sf_now()
FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::jsonb[])) AS held (id, lease_epoch, error)
WHERE job.id = held.id
  AND CASE WHEN job.status = 'running' AND job.worker_id = $4
           AND job.lease_epoch = held.lease_epoch THEN true ELSE false END
RETURNING job.id
