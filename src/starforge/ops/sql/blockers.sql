-- blockers: who keeps a session waiting for a lock.                                                (FAULTS 26)
-- takes   the session's process id int, limit int
-- gives   rows (pid, role, application, state, open_s: seconds since its transaction began), the oldest first
-- index   none
SELECT a.pid, coalesce(a.usename, '(unknown)') AS role, coalesce(a.application_name, '') AS application,
       coalesce(a.state, '') AS state, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS open_s
FROM unnest(pg_blocking_pids($1::int)) AS blocking (pid)
JOIN pg_stat_activity AS a ON a.pid = blocking.pid
ORDER BY a.xact_start
LIMIT $2
