-- captures_of: when a snapshot's content was the state of its subject.
-- takes   snapshot_id uuid, most int
-- gives   rows (id, captured_at, created_at), the latest first
-- index   snapshot_captures_once
SELECT id, captured_at, created_at FROM snapshot_captures WHERE snapshot_id = $1 ORDER BY captured_at DESC LIMIT $2
