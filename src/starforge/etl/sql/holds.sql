-- holds: the snapshots that wait for entries of catalogues, oldest first.                                  (F-42, F-43)
-- takes   catalogue text or null for all, source text or null for all, most integer
-- gives   rows (quarantine_id, snapshot_id, job_id, tenant_id, source, catalogue, key_column, missing, owner, created_at)
-- index   snapshot_holds_catalogue, snapshot_quarantine_pkey
SELECT h.quarantine_id, h.snapshot_id, h.job_id, h.tenant_id, h.source, h.catalogue, h.key_column, h.missing, h.owner, h.created_at
FROM snapshot_holds h
JOIN snapshot_quarantine q ON q.id = h.quarantine_id AND q.released_at IS NULL
WHERE ($1::text IS NULL OR h.catalogue = $1) AND ($2::text IS NULL OR h.source = $2)
ORDER BY h.created_at, h.quarantine_id
LIMIT $3
