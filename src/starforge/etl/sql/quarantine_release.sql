-- quarantine_release: these holds are over; the snapshot waits for a worker again when none of its holds is left.
-- takes   quarantine ids uuid[], released_by text
-- gives   rows (id, snapshot_id, tenant_id) that were held
-- index   snapshot_quarantine_pkey
UPDATE snapshot_quarantine SET released_at = sf_now(), released_by = $2
WHERE id = ANY ($1::uuid[]) AND released_at IS NULL
RETURNING id, snapshot_id, tenant_id
