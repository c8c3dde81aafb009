-- enqueued_since: which of these live jobs were enqueued at a time or later.                           (F-32)
-- takes   ids uuid[], since timestamptz
-- gives   rows (id)
-- index   queue_jobs_pkey
SELECT id FROM queue_jobs WHERE id = ANY ($1::uuid[]) AND created_at >= $2
