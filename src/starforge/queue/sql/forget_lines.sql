-- forget_lines: the lines that these jobs wrote are deleted.
-- takes   ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   log_lines_job
DELETE FROM log_lines WHERE job_id = ANY ($1::uuid[])
