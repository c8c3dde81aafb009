-- lines: the newest lines of one worker, or of one job, or of all, newest first.                     (F-13, B-34, J-11)
-- takes   worker_id uuid or null, job_id uuid or null, since_s float8 or null, levels text[] or null, after_id bigint,
--         limit int
-- gives   rows (id, at, worker_id, job_id, level, line)
-- index   log_lines_worker, log_lines_job; the partitions of the days asked for
SELECT id, at, worker_id, job_id, level, line
FROM log_lines
WHERE ($1::uuid IS NULL OR worker_id = $1) AND ($2::uuid IS NULL OR job_id = $2)
  AND ($3::float8 IS NULL OR at >= sf_now() - make_interval(secs => $3))
  AND ($4::text[] IS NULL OR level = ANY ($4)) AND id > $5
ORDER BY at DESC, id DESC
LIMIT $6
