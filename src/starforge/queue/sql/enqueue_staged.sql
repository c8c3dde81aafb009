-- enqueue_staged: what COPY brought into the temporary table becomes jobs.                           (G1)
-- takes   how many there are int; reads pg_temp.starforge_enqueue, which bulk enqueueing makes per transaction
-- gives   nothing
-- index   queue_jobs_pkey; for run_after see enqueue_many
INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
SELECT id, tenant_id, queue, type, payload::jsonb, priority, max_attempts,
       coalesce(run_after, sf_now() - ($1::int - place) * interval '1 microsecond'), limit_key, tags, timeout_s, trace
FROM pg_temp.starforge_enqueue
