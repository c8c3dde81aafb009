-- breakers: every type that finished attempts lately or is held by its breaker, with what is needed to judge it.  (Q-68)
-- takes   window float8 in seconds
-- gives   rows as `Watched` in queue/breaker.py. What finished is counted by whole minutes, from the window's or the
--         breaker's last move on, whichever is later; of the minute of that move, without what it had counted before
-- index   job_minutes_pkey, gates_one_of_a_cause, job_types_pkey
WITH span AS (
    SELECT date_trunc('minute', sf_now() - make_interval(secs => $1)) AS from_minute, date_trunc('minute', sf_now()) AS this_minute
), known AS (
    SELECT name, detail, expires_at, rate_per_s, to_timestamp((detail ->> 'moved_s')::float8) AS moved_at
    FROM gates WHERE scope = 'type' AND cause = 'breaker'
), counted AS (
    SELECT m.type,
           sum(m.completed) FILTER (WHERE m.minute >= coalesce(date_trunc('minute', k.moved_at), from_minute)) AS succeeded,
           sum(m.failed + m.retried) FILTER (WHERE m.minute >= coalesce(date_trunc('minute', k.moved_at), from_minute)) AS failed,
           sum(m.completed) FILTER (WHERE m.minute = this_minute) AS minute_succeeded,
           sum(m.failed + m.retried) FILTER (WHERE m.minute = this_minute) AS minute_failed
    FROM span JOIN job_minutes AS m ON m.minute >= span.from_minute
    LEFT JOIN known AS k ON k.name = m.type
    GROUP BY m.type
)
SELECT coalesce(k.name, c.type) AS type,
       t.owner AS type_owner,
       CASE WHEN k.name IS NULL OR k.expires_at <= sf_now() THEN 'closed'
            WHEN k.rate_per_s IS NULL THEN 'open' ELSE 'half_open' END AS state,
       EXISTS (
           SELECT 1 FROM setting_overrides AS o
           WHERE o.scope = 'type' AND o.name = coalesce(k.name, c.type) AND o.setting = 'breaker' AND o.expires_at > sf_now()
       ) AS off,
       greatest(0, coalesce(c.succeeded, 0)
           - CASE WHEN k.moved_at >= span.from_minute THEN (k.detail ->> 'succeeded')::bigint ELSE 0 END)::bigint AS succeeded,
       greatest(0, coalesce(c.failed, 0)
           - CASE WHEN k.moved_at >= span.from_minute THEN (k.detail ->> 'failed')::bigint ELSE 0 END)::bigint AS failed,
       coalesce(c.minute_succeeded, 0)::bigint AS minute_succeeded,
       coalesce(c.minute_failed, 0)::bigint AS minute_failed,
       coalesce((k.detail ->> 'trips')::int, 0) AS trips,
       extract(epoch FROM sf_now() - k.moved_at)::float8 AS since_s,
       CASE WHEN k.expires_at > sf_now() THEN extract(epoch FROM k.expires_at - sf_now())::float8 END AS expires_in_s,
       k.detail
FROM counted AS c
FULL JOIN known AS k ON k.name = c.type
LEFT JOIN job_types AS t ON t.name = coalesce(k.name, c.type)
CROSS JOIN span
ORDER BY 1
