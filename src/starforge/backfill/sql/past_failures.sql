-- past_failures: how the last backfills of an asset ended.                                   (B-67)
-- takes   tenant_id text, asset_name text, backfills int
-- gives   rows (id, state, total_partitions, completed_partitions, failed_partitions, code_version, error), newest first;
--         error is the most frequent of the last ones that its coordinator noted, else of its failed partitions
-- index   backfill_jobs_asset, backfill_partitions_pkey where partitions failed and nothing is noted
SELECT id, state, total_partitions, completed_partitions, failed_partitions, code_version,
       coalesce(
           (SELECT noted ->> 'message'
            FROM jsonb_array_elements(CASE WHEN job.failed_partitions > 0 THEN job.look -> 'failures' END) AS noted
            ORDER BY (noted ->> 'count')::int DESC LIMIT 1),
           (SELECT mode() WITHIN GROUP (ORDER BY p.error_message)
            FROM backfill_partitions AS p
            WHERE job.failed_partitions > 0 AND p.backfill_job_id = job.id AND p.state = 'failed')) AS error
FROM backfill_jobs AS job
WHERE tenant_id = $1 AND asset_name = $2 AND state IN ('completed', 'failed', 'cancelled')
ORDER BY created_at DESC
LIMIT $3
