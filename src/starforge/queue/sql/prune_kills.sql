-- prune_kills: kills of long ago are forgotten.
-- takes   days float8
-- gives   rows (id)
-- index   job_kills_created
DELETE FROM job_kills WHERE created_at < sf_now() - make_interval(secs => $1 * 86400)
RETURNING id
