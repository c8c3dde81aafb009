-- probe_seen: whether a probe's job is through.
-- takes   job_id uuid
-- gives   one row (worker_id, waited_s: seconds from its enqueueing to its start), or none
-- index   job_history_id
SELECT worker_id, extract(epoch FROM coalesce(started_at, completed_at) - created_at)::float8 AS waited_s
FROM job_history
WHERE id = $1 AND status = 'completed'
