-- holds_of: what holds a snapshot back, and held it before.
-- takes   snapshot_id uuid
-- gives   rows (id, cause, reason, created_by, created_at, released_at, released_by, released_to, release_reason), the
--         latest first
-- index   snapshot_quarantine_snapshot
SELECT id, cause, reason, created_by, created_at, released_at, released_by, released_to, release_reason
FROM snapshot_quarantine
WHERE snapshot_id = $1
ORDER BY created_at DESC
