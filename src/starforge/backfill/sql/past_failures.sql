-- past_failures: how the last backfills of an asset ended.                                   (B-67)
-- takes   tenant_id text, asset_name text, backfills int
-- gives   rows (id, state, total_partitions, completed_partitions, failed_partitions, code_version, error), newest first;
--         error is the most frequent one of its failed partitions
-- index   backfill_jobs_listed backwards, backfill_partitions_pkey where partitions failed
SELECT id, state, total_partitions, completed_partitions, failed_partitions, code_version,
       (SELECT mode() WITHIN GROUP (ORDER BY p.error_message)
        FROM backfill_partitions AS p
        WHERE job.failed_partitions > 0 AND p.backfill_job_id = job.id AND p.state = 'failed') AS error
FROM backfill_jobs AS job
WHERE tenant_id = $1 AND asset_name = $2 AND state IN ('completed', 'failed', 'cancelled')
ORDER BY created_at DESC
LIMIT $3
