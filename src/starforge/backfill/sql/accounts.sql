-- accounts: what ended and does not add up: backfills that say more of their partitions than these say themselves.  (D-14, B-35)
-- takes   id uuid, tenant_id text, each or null for all
-- gives   rows (id, asset, state, offence); none where all is well
-- index   backfill_partitions_pkey; reads all partitions of what it looks at
WITH counted AS (
    SELECT b.id, b.asset_name AS asset, b.state, b.closed_at, b.failed_max, b.total_partitions AS total,
           b.completed_partitions AS completed, b.failed_partitions AS failed, b.cancelled_partitions AS cancelled,
           p.*, EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = b.id) AS uncounted
    FROM backfill_jobs AS b
    CROSS JOIN LATERAL (
        SELECT count(*) AS seen, count(*) FILTER (WHERE state = 'completed') AS seen_completed,
               count(*) FILTER (WHERE state = 'failed') AS seen_failed,
               count(*) FILTER (WHERE state = 'cancelled') AS seen_cancelled,
               count(*) FILTER (WHERE state IN ('pending', 'running')) AS seen_open
        FROM backfill_partitions WHERE backfill_job_id = b.id) AS p
    WHERE (b.state = 'completed' OR b.closed_at IS NOT NULL)
      AND ($1::uuid IS NULL OR b.id = $1) AND ($2::text IS NULL OR b.tenant_id = $2)
)
SELECT id, asset, state, offence
FROM counted
CROSS JOIN LATERAL (VALUES
    (state = 'completed' AND seen - seen_open < total,
     format('it is completed with %s of %s partitions ended', seen - seen_open, total)),
    (state = 'completed' AND greatest(seen_failed, failed) > failed_max,
     format('it is completed with %s partitions failed, and tolerates %s', greatest(seen_failed, failed), failed_max)),
    (closed_at IS NOT NULL AND seen_open > 0, format('it is closed with %s partitions open', seen_open)),
    (closed_at IS NOT NULL AND seen <> total, format('it is closed with %s partitions, and says %s', seen, total)),
    (closed_at IS NOT NULL AND (completed, failed, cancelled) <> (seen_completed, seen_failed, seen_cancelled),
     format('it is closed and says %s completed, %s failed and %s cancelled, its partitions %s, %s and %s',
            completed, failed, cancelled, seen_completed, seen_failed, seen_cancelled)),
    (closed_at IS NOT NULL AND uncounted, 'it is closed with ends that nobody counted')
) AS judged (holds, offence)
WHERE holds
ORDER BY id, offence
