-- processed: the rows of a snapshot are written; commits with them. A second delivery adds no rows and leaves
--            the status as the first one set it.                                                      (Q-67)
-- takes   snapshot_id uuid, status text ('processed' or 'superseded'), rows_written int, though_held boolean
-- gives   nothing
-- index   hero_snapshots_pkey
UPDATE hero_snapshots
SET status = CASE WHEN status IN ('received', 'failed') OR $4 AND status = 'quarantined' THEN $2 ELSE status END, processing = false,
    rows_written = coalesce(rows_written, 0) + $3, processed_at = sf_now(), updated_at = sf_now()
WHERE id = $1
