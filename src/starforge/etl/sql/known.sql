-- known: the stored snapshot of a content, and which snapshot is the latest of its subject.
-- takes   tenant_id text, source text, sha256 bytea, subject text or null: whose it is where that is not known
-- gives   one row (id, subject, status, latest_id)
-- index   hero_snapshots_content, snapshot_captures_latest
SELECT s.id, coalesce(s.subject, $4) AS subject, s.status,
       (SELECT c.snapshot_id FROM snapshot_captures c
        WHERE c.tenant_id = s.tenant_id AND c.source = s.source AND c.subject = coalesce(s.subject, $4)
        ORDER BY c.captured_at DESC, c.created_at DESC LIMIT 1) AS latest_id
FROM hero_snapshots s
WHERE s.tenant_id = $1 AND s.source = $2 AND s.sha256 = $3
