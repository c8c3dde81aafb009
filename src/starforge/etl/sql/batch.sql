-- batch: the open holds of a batch.                                                                               (F-40)
-- takes   batch text, most integer
-- gives   rows (id, snapshot_id)
-- index   snapshot_quarantine_open; what is held is little
SELECT id, snapshot_id FROM snapshot_quarantine
WHERE released_at IS NULL AND snapshot_id IS NOT NULL AND details ->> 'batch' = $1
ORDER BY id
LIMIT $2
