-- prune: workers that ended long ago leave the registry.
-- takes   days float8
-- gives   rows (id)
-- index   none: the registry is small
DELETE FROM workers
WHERE state IN ('stopped', 'dead') AND stopped_at < sf_now() - make_interval(secs => $1 * 86400)
RETURNING id
