-- tally: how many of these snapshots are in which state, and how many rows they wrote.
-- takes   ids uuid[]
-- gives   rows (status, snapshots, rows_written)
-- index   hero_snapshots_pkey
SELECT status, count(*) AS snapshots, coalesce(sum(rows_written), 0) AS rows_written
FROM hero_snapshots
WHERE id = ANY ($1::uuid[])
GROUP BY status
