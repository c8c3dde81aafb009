-- again: whether a job runs again, though what is being told of it is how an earlier attempt ended.                  (O-48, D-12)
-- takes   queue_job_id uuid
-- gives   one row (status), or none where it is no longer in the queue; it is locked, so that nobody claims it meanwhile
-- index   queue_jobs_pkey
SELECT status FROM queue_jobs WHERE id = $1 FOR NO KEY UPDATE
