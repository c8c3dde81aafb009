-- claim: a coordinator takes the next backfill that nobody coordinates: resumed ones first, of equal priority.  (B-23, B-37)
-- takes   worker_id uuid, asset_names text[] (those that its workers know), stale_s double precision
-- gives   one row (id, tenant_id, asset_name, version, lease_epoch, heartbeat_at, …), or none
-- index   backfill_jobs_due
UPDATE backfill_jobs AS b
SET state = 'running', worker_id = $1, lease_epoch = b.lease_epoch + 1, heartbeat_at = sf_now(),
    started_at = coalesce(b.started_at, sf_now()), updated_at = sf_now()
WHERE b.id = (
    SELECT d.id FROM backfill_jobs AS d
    WHERE d.state IN ('pending', 'resuming', 'running') AND d.asset_name = ANY ($2::text[])
      AND (coalesce(d.heartbeat_at, CASE WHEN d.state = 'running' THEN d.updated_at END) IS NULL
           OR coalesce(d.heartbeat_at, d.updated_at) < sf_now() - $3 * interval '1 second')
      AND NOT EXISTS (SELECT FROM backfill_jobs w WHERE w.id = ANY (d.waits_for) AND w.state <> 'completed')
    ORDER BY d.priority DESC, d.state = 'pending', d.created_at
    LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING b.id, b.tenant_id, b.asset_name, b.version, b.lease_epoch, b.heartbeat_at, b.concurrency, b.priority,
          b.attempts_max, b.failed_max, b.checkpoint_ordinal, b.covers::text AS covers, b.eta_state, b.pace, b.paused_at
