-- forget_dead: dead letters of these jobs are deleted.
-- takes   ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   queue_jobs_dlq_once
DELETE FROM queue_jobs_dlq WHERE original_job_id = ANY ($1::uuid[])
