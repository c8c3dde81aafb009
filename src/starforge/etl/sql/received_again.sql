-- received_again: a failed snapshot waits for a worker once more.
-- takes   snapshot_id uuid
-- gives   one row (id), or none where it has not failed
-- index   hero_snapshots_pkey
UPDATE hero_snapshots SET status = 'received', processing = false, updated_at = sf_now()
WHERE id = $1 AND status = 'failed'
RETURNING id
