-- forget_live: live jobs that do not run are deleted.
-- takes   ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   queue_jobs_pkey
DELETE FROM queue_jobs WHERE id = ANY ($1::uuid[]) AND status <> 'running'
