-- processed: the rows of a snapshot are written; commits with them.
-- takes   snapshot_id uuid, status text ('processed' or 'superseded'), rows_written int
-- gives   nothing
-- index   hero_snapshots_pkey
UPDATE hero_snapshots
SET status = $2, processing = false, rows_written = $3, processed_at = sf_now(), updated_at = sf_now()
WHERE id = $1
