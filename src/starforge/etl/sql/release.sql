-- release: snapshots are held no longer, or only for ordinary workers.                          (O-44, F-40, F-42)
-- takes   snapshot_ids uuid[], hold ids uuid[] or null for all of theirs, lane text, who text, reason text or null
-- gives   rows (id, tenant_id, held: something else holds it still): the snapshots of which a hold ended, or one that was
--         released to the high-memory lane before
-- index   snapshot_quarantine_snapshot
WITH ended AS (
    UPDATE snapshot_quarantine
    SET released_at = sf_now(), released_by = $4, released_to = $3, release_reason = $5
    WHERE snapshot_id = ANY ($1::uuid[])
      AND CASE WHEN $2::uuid[] IS NULL THEN released_at IS NULL OR released_to = 'highmem'
               ELSE id = ANY ($2) AND released_at IS NULL END
    RETURNING id, snapshot_id, tenant_id
)
SELECT DISTINCT e.snapshot_id AS id, e.tenant_id,
       EXISTS (SELECT FROM snapshot_quarantine q
               WHERE q.snapshot_id = e.snapshot_id AND q.id <> ALL (SELECT id FROM ended)
                 AND (q.released_at IS NULL OR q.released_to = 'highmem')) AS held
FROM ended e
ORDER BY e.snapshot_id
