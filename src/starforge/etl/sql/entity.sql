-- entity: how far a large snapshot's entity is, with the rows it wrote.                      (F-19, Q-67)
-- takes   snapshot_id uuid, entity text, tenant_id text, captured_at timestamptz, status text ('written',
--         'superseded' or 'failed'), rows_written integer
-- gives   nothing
-- index   snapshot_entities_pkey
INSERT INTO snapshot_entities AS e (snapshot_id, entity, tenant_id, captured_at, status, rows_written)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (snapshot_id, entity) DO UPDATE
SET captured_at = excluded.captured_at, status = excluded.status, updated_at = sf_now(),
    rows_written = excluded.rows_written + CASE WHEN e.captured_at = excluded.captured_at THEN e.rows_written ELSE 0 END
