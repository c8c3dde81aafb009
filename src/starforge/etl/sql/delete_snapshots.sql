-- delete_snapshots: these snapshots go, with their captures and the holds that ended; their rows and errors stay.
-- takes   ids uuid[]
-- gives   one row (snapshots, bytes, captures, holds, raw_keys text[], tenants text[] beside them: objects to be deleted)
-- index   hero_snapshots_pkey, snapshot_captures_once, snapshot_quarantine_snapshot
WITH holds AS (
    DELETE FROM snapshot_quarantine WHERE snapshot_id = ANY ($1::uuid[]) RETURNING id
), captures AS (
    DELETE FROM snapshot_captures WHERE snapshot_id = ANY ($1::uuid[]) RETURNING id
), gone AS (
    DELETE FROM hero_snapshots WHERE id = ANY ($1::uuid[]) RETURNING size_bytes, raw_key, tenant_id
)
SELECT count(*) AS snapshots, coalesce(sum(size_bytes), 0)::bigint AS bytes, (SELECT count(*) FROM captures) AS captures,
       (SELECT count(*) FROM holds) AS holds,
       array_agg(raw_key ORDER BY raw_key) FILTER (WHERE raw_key IS NOT NULL) AS raw_keys,
       array_agg(tenant_id ORDER BY raw_key) FILTER (WHERE raw_key IS NOT NULL) AS tenants
FROM gone
