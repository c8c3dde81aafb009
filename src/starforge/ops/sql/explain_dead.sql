-- explain_dead: the newest dead letter of a job.                                                  (X-19)
-- takes   job id uuid
-- gives   one row (type, reason, created_at, archived_at, tenant_id), or none
-- index   queue_jobs_dlq_once
SELECT type, reason, created_at, archived_at, tenant_id FROM queue_jobs_dlq
WHERE original_job_id = $1 ORDER BY created_at DESC LIMIT 1
