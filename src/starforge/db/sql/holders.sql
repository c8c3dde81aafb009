-- holders: who holds the server's connections, those with the most first.                                 (FAULTS 25)
-- takes   limit int
-- gives   rows (role, application, address, connections, idle): idle is how many of them do nothing now
-- index   none
SELECT coalesce(usename, '(unknown)') AS role, coalesce(application_name, '') AS application,
       coalesce(host(client_addr), 'local') AS address,
       count(*)::int AS connections, (count(*) FILTER (WHERE state = 'idle'))::int AS idle
FROM pg_stat_activity
WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
GROUP BY 1, 2, 3
ORDER BY connections DESC, role, application, address
LIMIT $1
