-- raw_piece: some bytes of a snapshot's column; json_send is its text as bytes, with one copy fewer.        (F-20)
-- takes   snapshot_id uuid, tenant_id text, at integer from 1, length integer
-- gives   one row (bytes), empty behind the end, or none where the tenant has no such snapshot
-- index   hero_snapshots_pkey
SELECT substring(json_send(raw) FROM $3::integer FOR $4::integer) AS bytes
FROM hero_snapshots WHERE id = $1 AND tenant_id = $2 AND raw IS NOT NULL
