-- pace_of: the share of its concurrency that a backfill may use now.
-- takes   backfill_job_id uuid
-- gives   one row (pace), or none
-- index   backfill_jobs_pkey
SELECT pace FROM backfill_jobs WHERE id = $1
