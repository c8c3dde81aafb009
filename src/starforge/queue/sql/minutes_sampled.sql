-- minutes_sampled: whether this minute has a sample already.
-- takes   nothing
-- gives   one row (sampled)
-- index   job_minutes_pkey
SELECT EXISTS (
    SELECT 1 FROM job_minutes
    WHERE minute = date_trunc('minute', sf_now()) AND queue = '' AND type = ''
      AND worker_id = '00000000-0000-0000-0000-000000000000'
) AS sampled
