-- released_since: which snapshots no hold keeps from ordinary workers, of those that jobs wait for.
-- takes   snapshot_ids uuid[], since timestamptz[]: when each job was put aside
-- gives   rows (place from 1, after: a hold of it ended since); those that are held, or deleted, are missing
-- index   hero_snapshots_pkey, snapshot_quarantine_snapshot
SELECT job.place,
       EXISTS (SELECT FROM snapshot_quarantine q WHERE q.snapshot_id = job.id AND q.released_at >= job.since) AS after
FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS job (id, since, place)
WHERE EXISTS (SELECT FROM hero_snapshots s WHERE s.id = job.id)
  AND NOT EXISTS (SELECT FROM snapshot_quarantine q
                  WHERE q.snapshot_id = job.id AND (q.released_at IS NULL OR q.released_to = 'highmem'))
