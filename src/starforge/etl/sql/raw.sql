-- raw: where the bytes of a snapshot are, and the bytes themselves where they are few.                     (F-20)
-- takes   snapshot_id uuid, tenant_id text, whole_bytes_max bigint: more than that is read in pieces
-- gives   one row (raw_key, size_bytes, bytes), or none where the tenant has no such snapshot
-- index   hero_snapshots_pkey
SELECT raw_key, size_bytes,
       CASE WHEN raw_key IS NULL AND size_bytes <= $3 THEN json_send(raw) END AS bytes
FROM hero_snapshots WHERE id = $1 AND tenant_id = $2
