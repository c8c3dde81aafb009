-- cancelling: the running jobs of one worker whose cancellation was asked for.
-- takes   worker_id uuid
-- gives   rows (id, cancel_reason)
-- index   queue_jobs_cancelling
SELECT id, cancel_reason FROM queue_jobs WHERE worker_id = $1 AND cancel_reason IS NOT NULL AND status = 'running'
