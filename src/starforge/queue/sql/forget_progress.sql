-- forget_progress: what jobs said of themselves goes when they are through.
-- takes   job ids uuid[]
-- gives   nothing
-- index   job_progress_pkey
DELETE FROM job_progress WHERE job_id = ANY ($1::uuid[])
