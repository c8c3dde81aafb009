-- forget_kills: the evidence of processes that died with these jobs is deleted.
-- takes   ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   job_kills_job
DELETE FROM job_kills WHERE job_id = ANY ($1::uuid[])
