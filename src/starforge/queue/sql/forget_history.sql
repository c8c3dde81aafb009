-- forget_history: what these jobs returned, and why they failed, is cleared; that they ran stays known.
-- takes   ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   job_history_id
UPDATE job_history SET result = NULL, last_error = NULL, reason = NULL WHERE id = ANY ($1::uuid[])
