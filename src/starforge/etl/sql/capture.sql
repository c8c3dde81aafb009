-- capture: a content was the state of its subject at a time.
-- takes   tenant_id text, snapshot_id uuid, source text, subject text or null, captured_at timestamptz or null
-- gives   one row (id), or none where this capture is known
-- index   snapshot_captures_once
INSERT INTO snapshot_captures (tenant_id, snapshot_id, source, subject, captured_at)
VALUES ($1, $2, $3, $4, coalesce($5, sf_now()))
ON CONFLICT ON CONSTRAINT snapshot_captures_once DO NOTHING
RETURNING id
