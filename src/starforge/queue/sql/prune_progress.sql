-- prune_progress: what jobs said of themselves is forgotten a day after they left.
-- takes   most int
-- gives   nothing; the count is in the command's tag
-- index   queue_jobs_pkey, one probe per row that was not written for a day
DELETE FROM job_progress
WHERE job_id = ANY (ARRAY (
    SELECT p.job_id FROM job_progress AS p
    WHERE p.updated_at < sf_now() - interval '1 day'
      AND (SELECT true FROM queue_jobs AS j WHERE j.id = p.job_id) IS NULL
    LIMIT $1))
