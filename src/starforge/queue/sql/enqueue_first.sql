-- enqueue_first: one job with a key is accepted if nobody ever had the key or all have forgotten it; else enqueue_unique is
--         asked, which looks at what the key belongs to.                                              (G10, Q-67)
-- takes   as enqueue; and key text, text of a JSON array of the states in which it holds, seconds for which it holds
--         besides float8
-- gives   one row (id), or none
-- index   job_keys_pkey, queue_jobs_pkey
WITH taken AS (
    INSERT INTO job_keys (tenant_id, type, key, job_id, states, expires_at)
    VALUES ($3::text, $5::text, $15::text, $1::uuid, ARRAY(SELECT json_array_elements_text($16::text::json)),
            sf_now() + $17::float8 * interval '1 second')
    ON CONFLICT DO NOTHING
    RETURNING job_id
), accepted AS (
    INSERT INTO queue_jobs (id, payload, tenant_id, queue, type, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
    SELECT taken.job_id, $2::text::jsonb, $3, $4::text, $5, $6::int, $7::int,
           coalesce($8::timestamptz, sf_now() + $9::float8 * interval '1 second', sf_now()), $10::text,
           CASE WHEN $11::text IS NOT NULL THEN ARRAY(SELECT json_array_elements_text($11::text::json)) END, $12::real, $13::text
    FROM taken
    RETURNING id, run_after
)
SELECT id, CASE WHEN $14::text IS NOT NULL AND run_after <= sf_now() THEN pg_notify('starforge_jobs', $14::text) END FROM accepted
