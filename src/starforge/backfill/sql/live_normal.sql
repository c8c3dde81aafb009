-- live_normal: how long live jobs waited for a start while no backfill did anything.                              (B-69)
-- takes   nothing
-- gives   one row (p95_ms or null: no live job ran in the last ten minutes, or a backfill was at work all the time)
-- index   job_history_completed
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY greatest(0, extract(epoch FROM h.started_at - h.run_after))::float8 * 1000)
           AS p95_ms
FROM (SELECT started_at, run_after, queue, type, completed_at FROM job_history
      WHERE completed_at > sf_now() - interval '10 minutes' ORDER BY completed_at DESC LIMIT 20000) AS h
WHERE h.queue <> 'backfill' AND h.type NOT IN (SELECT t.name FROM job_types AS t WHERE t.limits <> '{}')
  AND NOT EXISTS (SELECT FROM backfill_jobs AS b
                  WHERE b.started_at <= h.completed_at AND coalesce(b.paused_at, b.closed_at, sf_now()) > h.completed_at)
