-- cascade: what waits for a backfill that ended without being completed is cancelled, and what waits for that.  (B-27)
-- takes   id uuid
-- gives   rows (id, asset_name)
-- index   backfill_jobs_due
WITH RECURSIVE below AS (
    SELECT b.id FROM backfill_jobs AS b WHERE b.closed_at IS NULL AND $1 = ANY (b.waits_for)
    UNION
    SELECT b.id FROM below JOIN backfill_jobs AS b ON b.closed_at IS NULL AND below.id = ANY (b.waits_for)
)
UPDATE backfill_jobs AS b
SET state = 'cancelled', error_message = format('backfill %s, which it waits for, ended as %s', $1, u.state), version = b.version + 1,
    completed_at = sf_now(), updated_at = sf_now(), state_by = 'coordinator', state_reason = 'its upstream was not completed'
FROM below, backfill_jobs AS u
WHERE b.id = below.id AND u.id = $1 AND u.state IN ('failed', 'cancelled') AND b.state IN ('pending', 'paused', 'resuming')
RETURNING b.id, b.asset_name
