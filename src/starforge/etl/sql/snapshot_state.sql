-- snapshot_state: one snapshot and what became of it; its content is not read.
-- takes   tenant_id text, id uuid
-- gives   one row, or none where the tenant has no such snapshot
-- index   hero_snapshots_pkey, snapshot_quarantine_open
SELECT s.id, s.source, s.subject, s.size_bytes, encode(s.sha256, 'hex') AS sha256, s.status, s.processing,
       coalesce(s.error_count, 0) AS error_count, s.rows_written, s.captured_at, s.created_at, s.updated_at, s.processed_at,
       EXISTS (SELECT FROM snapshot_quarantine q WHERE q.snapshot_id = s.id AND q.released_at IS NULL) AS held
FROM hero_snapshots s
WHERE s.tenant_id = $1 AND s.id = $2
