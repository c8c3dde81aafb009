-- held: what of a tenant is in quarantine: snapshots that are held, or released to high-memory workers and not processed,
--       and bytes that are no JSON.                                                                      (O-26, O-34, F-46)
-- takes   tenant_id text, source text or null, most int
-- gives   rows (id, snapshot_id, source, owner, name, cause, reason, size_bytes, status, released_to, created_by, created_at),
--         the latest first
-- index   snapshot_quarantine_created
SELECT q.id, q.snapshot_id, q.source, m.owner, q.name, q.cause, q.reason, q.size_bytes, s.status, q.released_to, q.created_by,
       q.created_at
FROM snapshot_quarantine q
LEFT JOIN hero_snapshots s ON s.id = q.snapshot_id
LEFT JOIN mapped_sources m ON m.source = q.source
WHERE q.tenant_id = $1 AND ($2::text IS NULL OR coalesce(q.source, s.source) = $2)
  AND (q.released_at IS NULL OR q.released_to = 'highmem' AND s.status = 'quarantined')
ORDER BY q.created_at DESC
LIMIT $3
