-- quarantined_piece: a piece of bytes that are no JSON.
-- takes   quarantine id uuid, tenant_id text, from int: the first byte, from 1; size int
-- gives   one row (piece), or none where there are no such bytes
-- index   snapshot_quarantine_pkey; the column is stored plain, so only the piece is read
SELECT substring(bytes FROM $3::int FOR $4::int) AS piece FROM snapshot_quarantine WHERE id = $1 AND tenant_id = $2
