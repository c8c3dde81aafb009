-- enqueue_fresh: of a batch of jobs with keys, no two of one key, those are accepted whose key nobody ever had or all have
--         forgotten. The others are left for enqueue_unique, which looks at what their keys belong to.      (G10, Q-67)
-- takes   as enqueue_many; and of each kind the states in which its keys hold, text[] of JSON arrays, and seconds for which
--         they hold besides float8[]; and of each job its key, text[]
-- gives   rows (id) of those that were accepted
-- index   job_keys_pkey, queue_jobs_pkey; keys are taken in their order, so that two bulks do not stop each other
WITH kind AS MATERIALIZED (
    SELECT k.*, CASE WHEN k.tag_list IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(k.tag_list::json)) END AS tags,
           ARRAY(SELECT json_array_elements_text(k.state_list::json)) AS states
    FROM unnest($5::text[], $6::text[], $7::text[], $8::int[], $9::int[], $10::timestamptz[], $11::float8[], $12::text[],
                $13::text[], $14::real[], $15::text[], $16::float8[]) WITH ORDINALITY
        AS k (tenant_id, queue, type, priority, max_attempts, run_after, delay_s, limit_key, tag_list, timeout_s, state_list,
              within_s, place)
), taken AS (
    INSERT INTO job_keys (tenant_id, type, key, job_id, states, expires_at)
    SELECT kind.tenant_id, kind.type, job.key, job.id, kind.states, sf_now() + kind.within_s * interval '1 second'
    FROM unnest($1::uuid[], $3::int[], $17::text[]) AS job (id, kind, key)
    JOIN kind ON kind.place = job.kind
    ORDER BY kind.tenant_id, kind.type, job.key
    ON CONFLICT DO NOTHING
    RETURNING job_id
)
INSERT INTO queue_jobs (id, payload, tenant_id, queue, type, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
SELECT job.id, job.payload::jsonb, kind.tenant_id, kind.queue, kind.type, kind.priority, kind.max_attempts,
       coalesce(kind.run_after, sf_now() + kind.delay_s * interval '1 second',
                sf_now() - (cardinality($1::uuid[]) - job.place) * interval '1 microsecond'),
       kind.limit_key, kind.tags, kind.timeout_s, job.trace
FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[]) WITH ORDINALITY AS job (id, payload, kind, trace, place)
JOIN kind ON kind.place = job.kind
WHERE job.id IN (SELECT job_id FROM taken)
RETURNING id
