-- enqueue_many: a batch of jobs without keys is accepted. What a job is beside its payload is said once for all that
--         are alike: most of a bulk differ in nothing else, and what is not sent costs nothing.                  (G1)
-- takes   ids uuid[], payloads text[] of JSON, the place of each job's kind int[]; and the kinds: tenants text[], queues
--         text[], types text[], priorities int[], max_attempts int[], run_after timestamptz[], delays float8[] in s (both
--         null: now), limit_keys text[], tags text[] of JSON arrays, timeouts real[] in s, traces text[]
-- gives   nothing
-- index   queue_jobs_pkey; jobs for now are a microsecond apart, the last of them now: they keep their order, and a
--         scan of the lane can start behind any one of them
INSERT INTO queue_jobs (id, payload, tenant_id, queue, type, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
SELECT job.id, job.payload::jsonb, kind.tenant_id, kind.queue, kind.type, kind.priority, kind.max_attempts,
       coalesce(kind.run_after, sf_now() + kind.delay_s * interval '1 second',
                sf_now() - (cardinality($1::uuid[]) - job.place) * interval '1 microsecond'),
       kind.limit_key, CASE WHEN kind.tags IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(kind.tags::json)) END,
       kind.timeout_s, kind.trace
FROM unnest($1::uuid[], $2::text[], $3::int[]) WITH ORDINALITY AS job (id, payload, kind, place)
JOIN unnest($4::text[], $5::text[], $6::text[], $7::int[], $8::int[], $9::timestamptz[], $10::float8[], $11::text[], $12::text[],
            $13::real[], $14::text[]) WITH ORDINALITY
    AS kind (tenant_id, queue, type, priority, max_attempts, run_after, delay_s, limit_key, tags, timeout_s, trace, place)
    ON kind.place = job.kind
