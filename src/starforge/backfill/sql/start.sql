-- start: attempts at partitions begin, each where its backfill runs and no other job is at it.                  (B-05, B-24)
-- takes   backfill_job_ids uuid[], ordinals bigint[], queue_job_ids uuid[], their tenants text[] (one attempt each)
-- gives   rows (queue_job_id, asset_name, attempt_count, cursor); those that may not begin are missing: their backfill
--         does not run, or the partition is over
-- index   backfill_partitions_pkey, backfill_jobs_pkey
UPDATE backfill_partitions AS p
SET state = 'running', attempt_count = p.attempt_count + 1, queue_job_id = a.queue_job_id, started_at = sf_now(),
    updated_at = sf_now()
FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[]) AS a (backfill_job_id, ordinal, queue_job_id, tenant_id),
     backfill_jobs AS b
WHERE p.backfill_job_id = a.backfill_job_id AND p.ordinal = a.ordinal AND p.tenant_id = a.tenant_id
  AND (p.state = 'pending' OR (p.state = 'running' AND p.queue_job_id = a.queue_job_id))
  AND b.id = a.backfill_job_id AND b.state = 'running'
RETURNING p.queue_job_id, b.asset_name, p.attempt_count, p.cursor
