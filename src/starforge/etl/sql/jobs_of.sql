-- jobs_of: what has become of jobs, and which others of these snapshots are held back.
-- takes   job ids uuid[] (null in it: none is known), snapshot ids uuid[]
-- gives   rows (id, snapshot_id, status)
-- index   queue_jobs_pkey, queue_jobs_held
SELECT j.id, j.payload ->> 'snapshot_id' AS snapshot_id, j.status FROM queue_jobs j WHERE j.id = ANY ($1::uuid[])
UNION
SELECT j.id, j.payload ->> 'snapshot_id', j.status FROM queue_jobs j
WHERE j.status = 'quarantined' AND j.type = 'process_snapshot'
  AND j.payload ->> 'snapshot_id' = ANY (SELECT s::text FROM unnest($2::uuid[]) AS s)
