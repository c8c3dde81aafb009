-- create: a backfill with what it is to do; the database refuses one that shares a partition with a live one.    (B-04)
-- takes   tenant_id text, asset_name text, covers text (an int8multirange), total integer, priority integer,
--         concurrency integer, attempts_max integer, failed_max integer, sla_at timestamptz or null, code_version text,
--         params jsonb, waits_for uuid[], created_by text, parent_id uuid or null
-- gives   one row (id, created_at)
-- index   backfill_jobs_overlap
INSERT INTO backfill_jobs (tenant_id, asset_name, covers, total_partitions, priority, concurrency, attempts_max, failed_max,
                           sla_at, code_version, params, waits_for, created_by, parent_id)
VALUES ($1, $2, $3::text::int8multirange, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
RETURNING id, created_at
