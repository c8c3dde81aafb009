-- erase_captures: the captures of these snapshots go.
-- takes   snapshot ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   snapshot_captures_once
DELETE FROM snapshot_captures WHERE snapshot_id = ANY ($1::uuid[])
