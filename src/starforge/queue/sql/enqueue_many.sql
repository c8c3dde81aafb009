-- enqueue_many: a small batch of jobs is accepted; large ones come by COPY.                          (G1)
-- takes   ids uuid[], tenants text[], queues text[], types text[], payloads text[] of JSON, priorities int[],
--         max_attempts int[], run_after timestamptz[] with nulls for now, limit_keys text[], tags text[] of JSON
--         arrays, timeouts real[] in s, traces text[]
-- gives   nothing
-- index   queue_jobs_pkey; jobs for now are a microsecond apart, the last of them now: they keep their order, and a
--         scan of the lane can start behind any one of them
INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
SELECT id, tenant_id, queue, type, payload::jsonb, priority, max_attempts,
       coalesce(run_after, sf_now() - (cardinality($1::uuid[]) - place) * interval '1 microsecond'), limit_key,
       CASE WHEN tags IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(tags::json)) END, timeout_s, trace
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[], $8::timestamptz[],
            $9::text[], $10::text[], $11::real[], $12::text[])
    WITH ORDINALITY AS job (id, tenant_id, queue, type, payload, priority, max_attempts, run_after, limit_key, tags, timeout_s,
                            trace, place)
