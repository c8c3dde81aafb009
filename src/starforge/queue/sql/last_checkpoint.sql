-- last_checkpoint: the value that a job's newest checkpoint kept.
-- takes   job id uuid
-- gives   one row (checkpoint text of JSON, or null), or none
-- index   job_progress_pkey
SELECT checkpoint::text FROM job_progress WHERE job_id = $1
