-- budget: what the server's connections are there for, and who has how many of them.                (D-06, Q-53, Q-62)
-- takes   machine text and pid int of a worker whose own share is not counted, or nulls
-- gives   one row (max_connections, reserved, used, others, shares, workers). `used` is every client's connection; `others`
--         those that no worker of this database accounts for; `shares` is what live workers may use, used or not
-- index   workers_live
SELECT current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       clients.used, clients.others, live.shares, live.workers
FROM (
    -- What a role may not see of others' sessions is null; they are there all the same.
    SELECT count(*)::int AS used,
           (count(*) FILTER (WHERE datname IS DISTINCT FROM current_database()
                                OR coalesce(application_name, '') !~ '^starforge (worker|supervisor|listener|upkeep)'))::int AS others
    FROM pg_stat_activity
    WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
) AS clients, (
    SELECT coalesce(sum(connections), 0)::int AS shares, count(*)::int AS workers
    FROM workers
    WHERE state IN ('running', 'stopping') AND lease_expires_at > sf_now()
      AND (machine, pid) IS DISTINCT FROM ($1::text, $2::int)
) AS live
