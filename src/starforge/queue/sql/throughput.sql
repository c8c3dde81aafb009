-- throughput: how many jobs were completed in the last one and five minutes.
-- takes   nothing
-- gives   one row (last_60_s, last_300_s)
-- index   the daily partition of today, and near midnight yesterday's
SELECT count(*) FILTER (WHERE completed_at > sf_now() - interval '60 seconds') AS last_60_s,
       count(*) AS last_300_s
FROM job_history
WHERE completed_at > sf_now() - interval '300 seconds' AND status = 'completed'
