-- declared: what the workers' newest declaration of a type says of its jobs.
-- takes   type text
-- gives   one row (queue, max_attempts), or none where no worker has declared it
-- index   job_types_pkey
SELECT queue, max_attempts FROM job_types WHERE name = $1
