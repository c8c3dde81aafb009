-- again: a stored snapshot waits for a worker once more.
-- takes   snapshot_id uuid, subject text or null: whose it is where that was not known, only_failed boolean
-- gives   one row (id), or none where it is held back or, with only_failed, has not failed
-- index   hero_snapshots_pkey, snapshot_captures_once
WITH snapshot AS (
    UPDATE hero_snapshots SET status = 'received', subject = coalesce(subject, $2), updated_at = sf_now()
    WHERE id = $1 AND (status = 'failed' OR NOT $3 AND status <> 'quarantined')
    RETURNING id, subject
), named AS (
    UPDATE snapshot_captures AS c SET subject = s.subject FROM snapshot s
    WHERE c.snapshot_id = s.id AND c.subject IS NULL
)
SELECT id FROM snapshot
