-- entities_again: what an unfinished attempt wrote of these snapshots is to be written once more, by today's mapping.
-- takes   snapshot_ids uuid[]
-- gives   nothing
-- index   snapshot_entities_pkey, hero_snapshots_pkey
DELETE FROM snapshot_entities AS e
WHERE e.snapshot_id = ANY ($1::uuid[])
  AND EXISTS (SELECT FROM hero_snapshots s WHERE s.id = e.snapshot_id AND s.status NOT IN ('processed', 'superseded'))
