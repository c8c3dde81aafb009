-- snapshot_counts: what became of the snapshots of the last hour.
-- takes   nothing
-- gives   rows (status, snapshots)
-- index   hero_snapshots_created
SELECT status, count(*) AS snapshots
FROM hero_snapshots
WHERE created_at > sf_now() - interval '1 hour'
GROUP BY status
