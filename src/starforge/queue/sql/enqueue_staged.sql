-- enqueue_staged: what COPY brought into the temporary table becomes jobs.                           (G1)
-- takes   nothing; reads pg_temp.starforge_enqueue, which bulk enqueueing makes per transaction
-- gives   nothing
-- index   queue_jobs_pkey
INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, max_attempts, run_after)
SELECT id, tenant_id, queue, type, payload::jsonb, priority, max_attempts, coalesce(run_after, sf_now())
FROM pg_temp.starforge_enqueue
