-- create: a backfill of one asset, not started; its partitions follow.                       (B-04, B-69, D-11)
-- takes   id uuid, tenant_id text, parent_id uuid or null, asset_name text, job_type text, covers int8multirange,
--         partitions int, of them canary int, priority int, concurrency int, attempts_max int, failed_max int,
--         sla_at timestamptz or null, code_version text, request jsonb, waits_for uuid[], created_by text
-- gives   one row (created_at); where it covers what another live one covers, backfill_jobs_overlap is violated
-- index   backfill_jobs_overlap refuses
INSERT INTO backfill_jobs (
    id, tenant_id, parent_id, asset_name, job_type, covers, total_partitions, canary_partitions, priority, concurrency,
    attempts_max, failed_max, sla_at, code_version, request, waits_for, created_by
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
RETURNING created_at
