-- processed: the rows of snapshots are written; commits with them. A second delivery adds no rows and leaves
--            the status as the first one set it.                                                      (Q-67)
-- takes   snapshot_ids uuid[], statuses text[] ('processed' or 'superseded'), rows_written int[], though_held boolean[]
-- gives   nothing
-- index   hero_snapshots_pkey
UPDATE hero_snapshots AS s
SET status = CASE WHEN s.status IN ('received', 'failed') OR written.though_held AND s.status = 'quarantined'
                  THEN written.status ELSE s.status END,
    processing = false, rows_written = coalesce(s.rows_written, 0) + written.rows_written,
    processed_at = sf_now(), updated_at = sf_now()
FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::boolean[]) AS written (id, status, rows_written, though_held)
WHERE s.id = ANY ($1::uuid[]) AND s.id = written.id
