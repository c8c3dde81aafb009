-- enqueue: one job is accepted.                                                              (G1, Q-23)
-- takes   id uuid, tenant_id text, queue text, type text, payload text of JSON, priority int, max_attempts int,
--         run_after timestamptz or null for now, limit_key text, tags text[], timeout_s real, trace text,
--         hint text or null for none; delayed jobs give none
-- gives   one row (id); the hint to workers leaves with the transaction's commit
-- index   queue_jobs_pkey
WITH accepted AS (
    INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
    VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, coalesce($8, sf_now()), $9, $10, $11, $12)
    RETURNING id, run_after
)
SELECT id, CASE WHEN $13::text IS NOT NULL AND run_after <= sf_now() THEN pg_notify('starforge_jobs', $13) END FROM accepted
