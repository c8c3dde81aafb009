-- backfills: what the gauges show of backfills that are not over.                                       (B-53, B-63, D-15, D-16)
-- takes   nothing
-- gives   one row (states jsonb: backfills by state, eta_s, heartbeat_s, progress_s, throttled jsonb: backfills by reason)
-- index   backfill_jobs_live
WITH live AS (
    SELECT state, heartbeat_at, progress_at, started_at, updated_at, eta_high_at, pace, look
    FROM backfill_jobs WHERE state IN ('pending', 'running', 'paused', 'resuming')
), slowed AS (
    SELECT look ->> 'throttle' AS reason, count(*) AS backfills
    FROM live WHERE state = 'running' AND look ->> 'throttle' IS NOT NULL GROUP BY 1
)
SELECT (SELECT coalesce(jsonb_object_agg(state, backfills), '{}')
        FROM (SELECT state, count(*) AS backfills FROM live GROUP BY state) AS by_state) AS states,
       coalesce(max(extract(epoch FROM eta_high_at - sf_now())) FILTER (WHERE state = 'running'), 0)::float8 AS eta_s,
       coalesce(max(extract(epoch FROM sf_now() - coalesce(heartbeat_at, updated_at))) FILTER (WHERE state = 'running'), 0)::float8
           AS heartbeat_s,
       coalesce(max(extract(epoch FROM sf_now() - coalesce(progress_at, started_at, updated_at)))
                FILTER (WHERE state = 'running'), 0)::float8 AS progress_s,
       (SELECT coalesce(jsonb_object_agg(reason, backfills), '{}') FROM slowed) AS throttled
FROM live
