-- minutes_prune: minutes that are older than they are kept.
-- takes   days int, most int
-- gives   nothing; the count is in the command's tag
-- index   job_minutes_pkey
DELETE FROM job_minutes
WHERE ctid = ANY (ARRAY (
    SELECT ctid FROM job_minutes WHERE minute < sf_now() - make_interval(days => $1) LIMIT $2))
