-- told: a job's type has heard of a kill.
-- takes   id uuid
-- gives   the id
-- index   job_kills_pkey
UPDATE job_kills SET told_at = sf_now() WHERE id = $1 AND told_at IS NULL
RETURNING id
