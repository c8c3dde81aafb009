-- entities_done: what an earlier attempt on this capture of a snapshot wrote; nothing once it wrote everything, for
--                then somebody wants it written again.
-- takes   snapshot_id uuid, captured_at timestamptz
-- gives   rows (entity, rows_written)
-- index   snapshot_entities_pkey, hero_snapshots_pkey
SELECT e.entity, e.rows_written FROM snapshot_entities e
WHERE e.snapshot_id = $1 AND e.captured_at = $2 AND e.status IN ('written', 'superseded')
  AND EXISTS (SELECT 1 FROM hero_snapshots s WHERE s.id = $1 AND s.status NOT IN ('processed', 'superseded'))
