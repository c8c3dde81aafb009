-- minutes: what happened in each of the last minutes, this one included, by queue and type.                (Q-13)
-- takes   minutes int
-- gives   rows (minute, queue, type, completed … waited_ms, depth, oldest_s), oldest first; queue '' and type '' say
--         that the minute was sampled
-- index   job_minutes_pkey
SELECT minute, queue, type, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
       sum(retried)::bigint AS retried, sum(quarantined)::bigint AS quarantined, sum(cancelled)::bigint AS cancelled,
       sum(ran_ms)::float8 AS ran_ms, max(ran_ms_max)::float8 AS ran_ms_max, sum(waited_ms)::float8 AS waited_ms,
       max(depth) AS depth, max(oldest_s)::float8 AS oldest_s
FROM job_minutes
WHERE minute > date_trunc('minute', sf_now()) - make_interval(mins => $1)
GROUP BY minute, queue, type
ORDER BY minute, queue, type
