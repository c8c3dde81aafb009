-- snapshots_lock: these snapshots are locked for the change that follows, in an order that all share.
-- takes   snapshot_ids uuid[]
-- gives   nothing that is read
-- index   hero_snapshots_pkey
SELECT id FROM hero_snapshots WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE
