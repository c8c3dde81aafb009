-- offenders: the snapshots behind a failure, latest first.                                                        (F-40)
-- takes   constraint name text or null, fingerprint text or null, seconds back float8, most integer
-- gives   rows (snapshot_id, source, failures, last_at, message, status, held: a hold is open, more: snapshots beyond)
-- index   etl_errors_fingerprint or etl_errors_created, hero_snapshots_pkey, snapshot_quarantine_open
SELECT e.snapshot_id, s.source, e.failures, e.last_at, e.message, s.status,
       EXISTS (SELECT FROM snapshot_quarantine q WHERE q.snapshot_id = e.snapshot_id AND q.released_at IS NULL) AS held,
       greatest(count(*) OVER () - $4, 0) AS more
FROM (
    SELECT snapshot_id, count(*) AS failures, max(created_at) AS last_at,
           (array_agg(message ORDER BY created_at DESC))[1] AS message
    FROM etl_errors
    WHERE snapshot_id IS NOT NULL AND created_at > sf_now() - make_interval(secs => $3)
      AND ($1::text IS NULL OR details ->> 'constraint_name' = $1)
      AND ($2::text IS NULL OR fingerprint = $2)
    GROUP BY snapshot_id
) AS e
JOIN hero_snapshots s ON s.id = e.snapshot_id
ORDER BY e.last_at DESC, e.snapshot_id
LIMIT $4
