-- faults: the newest lines of any worker that tell of something that went wrong.                                 (J-11)
-- takes   since_s float8, limit int
-- gives   rows (id, at, worker_id, job_id, level, line)
-- index   the partitions of the days asked for
SELECT id, at, worker_id, job_id, level, line
FROM log_lines
WHERE at >= sf_now() - make_interval(secs => $1)
  AND (level IN ('error', 'critical') OR line ~* '\m(failed|panic)')
ORDER BY at DESC, id DESC
LIMIT $2
