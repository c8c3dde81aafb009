-- release: a snapshot is held no longer, or only for ordinary workers.                                       (O-44)
-- takes   snapshot_id uuid, lane text, who text, reason text or null
-- gives   rows (id): the holds that ended, and those that were released to the high-memory lane before
-- index   snapshot_quarantine_snapshot
UPDATE snapshot_quarantine
SET released_at = sf_now(), released_by = $3, released_to = $2, release_reason = $4
WHERE snapshot_id = $1 AND (released_at IS NULL OR released_to = 'highmem')
RETURNING id
