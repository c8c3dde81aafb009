-- enqueue_many: a small batch of jobs is accepted; large ones come by COPY.                          (G1)
-- takes   ids uuid[], tenants text[], queues text[], types text[], payloads text[] of JSON, priorities int[],
--         max_attempts int[], run_after timestamptz[] with nulls for now
-- gives   nothing
-- index   queue_jobs_pkey
INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, max_attempts, run_after)
SELECT id, tenant_id, queue, type, payload::jsonb, priority, max_attempts, coalesce(run_after, sf_now())
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[], $8::timestamptz[])
    AS job (id, tenant_id, queue, type, payload, priority, max_attempts, run_after)
