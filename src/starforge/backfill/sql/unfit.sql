-- unfit: which of some backfills must not go on, by their partitions: what integrity.py then tells in words.      (B-35, B-70)
-- takes   tenant_id text, ids uuid[]
-- gives   rows (id)
-- index   backfill_jobs_pkey, backfill_partitions_pkey: all partitions of these backfills, once
SELECT b.id
FROM backfill_jobs AS b
CROSS JOIN LATERAL (
    SELECT count(*) AS total, count(*) FILTER (WHERE state = 'completed') AS completed,
           max(ordinal) FILTER (WHERE partition_key = b.checkpoint_partition_key) AS checkpoint,
           min(ordinal) FILTER (WHERE state IN ('pending', 'running') AND reopened_at IS NULL) AS first_open
    FROM backfill_partitions WHERE backfill_job_id = b.id AND tenant_id = b.tenant_id
) AS p
WHERE b.id = ANY ($2::uuid[]) AND b.tenant_id = $1
  AND (p.total <> b.total_partitions OR p.completed < b.completed_partitions
       OR (b.checkpoint_partition_key IS NOT NULL AND (p.checkpoint IS NULL OR p.first_open <= p.checkpoint)))
