-- live_normal: how long live jobs waited for a start while no backfill did anything.                              (B-69)
-- takes   nothing
-- gives   one row (p95_ms or null: no live job ran in the last ten minutes, or a backfill was at work all the time)
-- index   job_history_completed; backfills are read once, and those that ended before that time are left out
WITH at_work AS MATERIALIZED (
    -- The time of a pause that was resumed stays in the row: only a paused one is not at work since then.
    SELECT started_at, CASE WHEN state = 'paused' THEN paused_at ELSE closed_at END AS ended_at FROM backfill_jobs
    WHERE started_at IS NOT NULL AND (closed_at IS NULL OR closed_at > sf_now() - interval '10 minutes')
)
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY greatest(0, extract(epoch FROM h.started_at - h.run_after))::float8 * 1000)
           AS p95_ms
FROM (SELECT started_at, run_after, queue, type, completed_at FROM job_history
      WHERE completed_at > sf_now() - interval '10 minutes' ORDER BY completed_at DESC LIMIT 20000) AS h
WHERE h.queue <> 'backfill' AND h.type NOT IN (SELECT t.name FROM job_types AS t WHERE t.limits <> '{}')
  AND NOT EXISTS (SELECT FROM at_work AS b
                  WHERE b.started_at <= h.completed_at AND coalesce(b.ended_at, sf_now()) > h.completed_at)
