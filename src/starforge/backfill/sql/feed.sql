-- feed: the next partitions are given to the queue: the canary first, then in their declared order.             (B-17, B-24)
-- takes   id uuid, worker_id uuid, lease_epoch bigint, job_ids uuid[] (as many as may be fed)
-- gives   rows (partition_key, ordinal, queue_job_id)
-- index   backfill_partitions_unfed, backfill_jobs_pkey
WITH held AS (
    SELECT id FROM backfill_jobs WHERE id = $1 AND worker_id = $2 AND lease_epoch = $3 AND state = 'running' FOR SHARE
), next AS (
    SELECT p.backfill_job_id, p.partition_key, row_number() OVER (ORDER BY p.is_canary DESC, p.ordinal) AS place
    FROM (SELECT u.backfill_job_id, u.partition_key, u.is_canary, u.ordinal
          FROM held JOIN backfill_partitions AS u ON u.backfill_job_id = held.id
          WHERE u.state = 'pending' AND u.queue_job_id IS NULL
          ORDER BY u.is_canary DESC, u.ordinal LIMIT cardinality($4::uuid[])) AS p
)
UPDATE backfill_partitions AS p
SET queue_job_id = ($4::uuid[])[next.place], updated_at = sf_now()
FROM next
WHERE p.backfill_job_id = next.backfill_job_id AND p.partition_key = next.partition_key AND p.queue_job_id IS NULL
RETURNING p.partition_key, p.ordinal, p.queue_job_id
