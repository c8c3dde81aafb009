-- old_snapshots: a tenant's snapshots that are through and to which nothing has happened since a time, locked.
-- takes   tenant_id text, source text or null, before timestamptz, after uuid: the last id that was dealt with, most int
-- gives   rows (id), in the order of the ids
-- index   hero_snapshots_pkey
SELECT s.id
FROM hero_snapshots s
WHERE s.tenant_id = $1 AND ($2::text IS NULL OR s.source = $2) AND s.id > $4
  AND s.created_at < $3 AND s.updated_at < $3
  AND s.status IN ('processed', 'superseded', 'failed')
  AND NOT EXISTS (SELECT FROM snapshot_quarantine q WHERE q.snapshot_id = s.id AND q.released_at IS NULL)
ORDER BY s.id
LIMIT $5
FOR UPDATE OF s
