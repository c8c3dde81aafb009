-- enqueue: one job without a key is accepted.                                                (G1, Q-23, J-39)
-- takes   id uuid, payload text of JSON, tenant_id text, queue text, type text, priority int, max_attempts int,
--         run_after timestamptz, delay_s float8 (both null: now), limit_key text, tags text of a JSON array or null,
--         timeout_s real, trace text, hint text or null for none
-- gives   one row (id); the hint to workers leaves with the transaction's commit, that of a delayed job not at all
-- index   queue_jobs_pkey
WITH accepted AS (
    INSERT INTO queue_jobs (id, payload, tenant_id, queue, type, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
    VALUES ($1::uuid, $2::text::jsonb, $3::text, $4::text, $5::text, $6::int, $7::int,
            coalesce($8::timestamptz, sf_now() + $9::float8 * interval '1 second', sf_now()), $10::text,
            CASE WHEN $11::text IS NOT NULL THEN ARRAY(SELECT json_array_elements_text($11::text::json)) END, $12::real, $13::text)
    RETURNING id, run_after
)
SELECT id, CASE WHEN $14::text IS NOT NULL AND run_after <= sf_now() THEN pg_notify('starforge_jobs', $14::text) END FROM accepted
