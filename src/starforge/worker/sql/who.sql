-- who: the workers that a word may name: the start of an id, or host:pid.                                        (F-13)
-- takes   word text, limit int
-- gives   rows (id, host, pid, state, previous_id, started_at), newest first
-- index   none: the registry is small
SELECT id, host, pid, state, previous_id, started_at
FROM workers
WHERE starts_with(id::text, lower($1)) OR host || ':' || pid = $1
ORDER BY started_at DESC
LIMIT $2
