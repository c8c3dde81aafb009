-- keep_lines: what a worker's processes wrote, as of when it was taken.                                          (F-13)
-- takes   worker_ids uuid[], ages_s float8[], levels text[], job_ids uuid[], lines text[]
-- gives   nothing
-- index   none
INSERT INTO log_lines (worker_id, at, level, job_id, line)
SELECT said.worker_id, sf_now() - make_interval(secs => said.age_s), said.level, said.job_id, said.line
FROM unnest($1::uuid[], $2::float8[], $3::text[], $4::uuid[], $5::text[])
     WITH ORDINALITY AS said (worker_id, age_s, level, job_id, line, place)
ORDER BY said.place
