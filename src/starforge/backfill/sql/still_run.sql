-- still_run: backfills that were ended and of which partitions still run that another is to have.            (B-28, B-70)
-- takes   tenant_id text, asset_name text, covers int8multirange
-- gives   rows (id, state, running); those whose job waits, as after the end of a worker, do not run
-- index   backfill_jobs_due, backfill_partitions_pkey, queue_jobs_pkey
SELECT b.id, b.state, r.running
FROM backfill_jobs AS b
CROSS JOIN LATERAL (SELECT count(*)::int AS running FROM backfill_partitions AS p
                    WHERE p.backfill_job_id = b.id AND p.state = 'running' AND p.ordinal <@ $3::int8multirange
                      AND EXISTS (SELECT FROM queue_jobs AS j WHERE j.id = p.queue_job_id AND j.status = 'running')) AS r
WHERE b.closed_at IS NULL AND b.tenant_id = $1 AND b.asset_name = $2 AND b.covers && $3::int8multirange
  AND b.state IN ('completed', 'failed', 'cancelled') AND r.running > 0
