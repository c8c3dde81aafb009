-- erase_snapshots: these snapshots go.
-- takes   ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   hero_snapshots_pkey
DELETE FROM hero_snapshots WHERE id = ANY ($1::uuid[])
