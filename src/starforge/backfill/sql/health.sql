-- health: what beside the connections says how the database fares.                                               (Q-59, B-69)
-- takes   seconds of the live queues' jobs to look back at float8
-- gives   one row (at_s, lock_waits, wal_bytes, replication_lag_s or null, live_p95_ms or null: no live job ended lately);
--         jobs of types with a limit or a rate wait for that, and say nothing
-- index   job_history_completed of today's partition; pg_locks tells of locks whatever role asks
SELECT extract(epoch FROM clock_timestamp())::float8 AS at_s,
       (SELECT count(DISTINCT l.pid) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE NOT l.granted AND d.datname = current_database()) AS lock_waits,
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 END AS wal_bytes,
       (SELECT max(extract(epoch FROM r.replay_lag))::float8 FROM pg_stat_replication AS r) AS replication_lag_s,
       (SELECT percentile_cont(0.95) WITHIN GROUP (
            ORDER BY greatest(0, extract(epoch FROM h.started_at - h.run_after))::float8 * 1000)
        FROM job_history AS h
        WHERE h.completed_at > sf_now() - $1 * interval '1 second' AND h.queue <> 'backfill'
          AND h.type NOT IN (SELECT t.name FROM job_types AS t WHERE t.limits <> '{}')) AS live_p95_ms
