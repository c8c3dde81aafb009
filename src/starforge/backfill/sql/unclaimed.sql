-- unclaimed: backfills of the caller's tenant that wait for a coordinator, in the order in which they are taken.  (B-40, B-41)
-- takes   stale_s float8, most int
-- gives   rows (id)
-- index   backfill_jobs_due
SELECT b.id
FROM backfill_jobs AS b
LEFT JOIN workers AS w ON w.id = b.worker_id
WHERE b.closed_at IS NULL AND b.tenant_id = sf_tenant()
  AND (b.state IN ('pending', 'resuming')
       OR (b.state <> 'paused' AND (b.worker_id IS NULL OR w.state IN ('stopped', 'dead')
           OR coalesce(b.heartbeat_at, b.updated_at) < sf_now() - make_interval(secs => $1))))
ORDER BY b.priority DESC, b.state = 'pending', b.created_at
LIMIT $2::int
