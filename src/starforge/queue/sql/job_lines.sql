-- job_lines: what a job has said since a line.
-- takes   job id uuid, the last line's id bigint, most int
-- gives   rows (id, at, level, line), in their order
-- index   log_lines_job of each partition
SELECT id, at, level, line FROM log_lines
WHERE job_id = $1::uuid AND id > $2::bigint
ORDER BY id
LIMIT $3::int
