-- enqueue_unique: jobs with keys are accepted, each unless the job that its key belongs to still counts. (G10, Q-67)
-- takes   text of a JSON array of jobs, of each key one: {"place": from 1, "id", "payload", "tenant_id", "queue", "type",
--         "priority", "max_attempts", "run_after", "delay_s", "limit_key", "tags", "timeout_s", "trace", "hint",
--         "key", "states", "within_s", "on_conflict": return, replace or reschedule}
-- gives   rows (place, id, new, changed); id is null where another transaction took the key after this statement's
--         snapshot: what it made of it is seen by asking again
-- index   job_keys_pkey, queue_jobs_pkey whatever the statistics say (CASE, LIMIT and ANY (ARRAY[…]) leave but probes). A
--         key that holds is only read, so that nobody waits for whoever repeats it. One that does not is taken over only
--         in the version that was read; keys are taken in their order, so that two bulks do not stop each other
WITH wanted AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::text::json) AS w (
        place int, id uuid, payload jsonb, tenant_id text, queue text, type text, priority int, max_attempts int,
        run_after timestamptz, delay_s float8, limit_key text, tags text[], timeout_s real, trace text, hint text,
        key text, states text[], within_s float8, on_conflict text)
), held AS MATERIALIZED (
    SELECT w.place, k.job_id,
           coalesce(k.expires_at > sf_now(), false)
           OR EXISTS (SELECT FROM queue_jobs j WHERE j.id = ANY (ARRAY[k.job_id]) AND j.status = ANY (k.states))
           OR (k.states && ARRAY['completed', 'cancelled']
               AND EXISTS (SELECT FROM job_history h WHERE h.id = ANY (ARRAY[k.job_id]) AND h.status = ANY (k.states))) AS holds
    FROM wanted w CROSS JOIN LATERAL (
        SELECT * FROM job_keys WHERE tenant_id = w.tenant_id AND type = w.type AND key = w.key LIMIT 1
    ) AS k
), taken AS (
    INSERT INTO job_keys AS k (tenant_id, type, key, job_id, states, expires_at)
    SELECT w.tenant_id, w.type, w.key, w.id, w.states, sf_now() + w.within_s * interval '1 second'
    FROM wanted w
    WHERE NOT EXISTS (SELECT FROM held h WHERE h.place = w.place AND h.holds)
    ORDER BY w.tenant_id, w.type, w.key
    ON CONFLICT (tenant_id, type, key) DO UPDATE
        SET job_id = excluded.job_id, states = excluded.states, expires_at = excluded.expires_at, created_at = sf_now()
        WHERE k.job_id IN (SELECT h.job_id FROM held h WHERE NOT h.holds)
    RETURNING k.job_id
), accepted AS (
    INSERT INTO queue_jobs (id, payload, tenant_id, queue, type, priority, max_attempts, run_after, limit_key, tags, timeout_s, trace)
    SELECT w.id, w.payload, w.tenant_id, w.queue, w.type, w.priority, w.max_attempts,
           coalesce(w.run_after, sf_now() + w.delay_s * interval '1 second',
                    sf_now() - ((SELECT count(*) FROM wanted) - w.place) * interval '1 microsecond'),
           w.limit_key, w.tags, w.timeout_s, w.trace
    FROM wanted w JOIN taken t ON t.job_id = w.id
    RETURNING id, run_after
), changed AS (
    UPDATE queue_jobs AS job
    SET payload = CASE WHEN w.on_conflict = 'replace' THEN w.payload ELSE job.payload END,
        priority = CASE WHEN w.on_conflict = 'replace' THEN w.priority ELSE job.priority END,
        tags = CASE WHEN w.on_conflict = 'replace' THEN w.tags ELSE job.tags END,
        run_after = coalesce(w.run_after, sf_now() + w.delay_s * interval '1 second', sf_now()),
        updated_at = sf_now()
    FROM wanted w JOIN held h ON h.place = w.place
    WHERE w.on_conflict <> 'return' AND h.holds AND job.id = ANY (ARRAY[h.job_id]) AND CASE WHEN job.status = 'pending' THEN true ELSE false END
    RETURNING w.place, job.run_after
)
SELECT w.place, coalesce(a.id, CASE WHEN h.holds THEN h.job_id END) AS id, a.id IS NOT NULL AS new, c.place IS NOT NULL AS changed,
       CASE WHEN c.run_after <= sf_now() THEN pg_notify('starforge_jobs', '*')
            WHEN w.hint IS NOT NULL AND a.run_after <= sf_now() THEN pg_notify('starforge_jobs', w.hint) END
FROM wanted w
LEFT JOIN held h ON h.place = w.place
LEFT JOIN accepted a ON a.id = w.id
LEFT JOIN changed c ON c.place = w.place
