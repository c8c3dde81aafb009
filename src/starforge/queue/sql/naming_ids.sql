-- naming_ids: every job of a tenant, wherever it is, whose payload names one of these.
-- takes   key text, values text[], tenant_id text
-- gives   rows (id)
-- index   none: queue, history and dead letters are read once
SELECT id FROM queue_jobs WHERE payload ->> $1::text = ANY ($2::text[]) AND tenant_id = $3
UNION
SELECT id FROM job_history WHERE payload ->> $1::text = ANY ($2::text[]) AND tenant_id = $3
UNION
SELECT original_job_id FROM queue_jobs_dlq WHERE payload ->> $1::text = ANY ($2::text[]) AND tenant_id = $3
