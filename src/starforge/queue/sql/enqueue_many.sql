-- enqueue_many: a batch of jobs without keys is accepted. What a job is beside its payload is said once for all that
--         are alike: most of a bulk differ in nothing else, and what is not sent costs nothing.                  (G1)
-- takes   ids uuid[], payloads text[] of JSON, the place of each job's kind int[], traces text[] or null for none; and the
--         kinds: tenants text[], queues text[], types text[], priorities int[], max_attempts int[], run_after
--         timestamptz[], delays float8[] in s (both null: now), limit_keys text[], tags text[] of JSON arrays, timeouts
--         real[] in s
-- gives   nothing
-- index   queue_jobs_pkey; jobs for now are a microsecond apart, the last of them now: they keep their order, and a
--         scan of the lane can start behind any one of them
WITH kind AS MATERIALIZED (
    SELECT k.*, CASE WHEN k.tag_list IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(k.tag_list::json)) END AS tags
    FROM unnest($5::text[], $6::text[], $7::text[], $8::int[], $9::int[], $10::timestamptz[], $11::float8[], $12::text[],
                $13::text[], $14::real[]) WITH ORDINALITY
        AS k (tenant_id, queue, type, priority, max_attempts, run_after, delay_s, limit_key, tag_list, timeout_s, place)
)
INSERT INTO queue_jobs (id, payload, tenant_id, queue, type, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
SELECT job.id, job.payload::jsonb, kind.tenant_id, kind.queue, kind.type, kind.priority, kind.max_attempts,
       coalesce(kind.run_after, sf_now() + kind.delay_s * interval '1 second',
                sf_now() - (cardinality($1::uuid[]) - job.place) * interval '1 microsecond'),
       kind.limit_key, kind.tags, kind.timeout_s, job.trace
FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[]) WITH ORDINALITY AS job (id, payload, kind, trace, place)
JOIN kind ON kind.place = job.kind
