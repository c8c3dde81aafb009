-- fold: what ended since the last fold is counted, under the coordinator's epoch.                            (B-18, D-14)
-- takes   id uuid, worker_id uuid, lease_epoch bigint, most integer
-- gives   rows (ordinal, partition_key, state, attempt_count, duration_ms), or none: nothing ended, or the lease is over
-- index   backfill_partitions_unfolded, backfill_jobs_pkey
WITH held AS (
    SELECT id FROM backfill_jobs WHERE id = $1 AND worker_id = $2 AND lease_epoch = $3 FOR UPDATE
), ended AS (
    UPDATE backfill_partitions AS p
    SET is_folded = true
    FROM (SELECT u.backfill_job_id, u.partition_key FROM held JOIN backfill_partitions AS u ON u.backfill_job_id = held.id
          WHERE NOT u.is_folded AND u.state IN ('completed', 'failed', 'cancelled')
          ORDER BY u.ordinal LIMIT $4) AS some
    WHERE p.backfill_job_id = some.backfill_job_id AND p.partition_key = some.partition_key
    RETURNING p.ordinal, p.partition_key, p.state, p.attempt_count, p.duration_ms
), counted AS (
    UPDATE backfill_jobs AS b
    SET completed_partitions = b.completed_partitions + c.completed, failed_partitions = b.failed_partitions + c.failed,
        cancelled_partitions = b.cancelled_partitions + c.cancelled, progress_at = sf_now(), updated_at = sf_now()
    FROM (SELECT count(*) FILTER (WHERE state = 'completed') AS completed, count(*) FILTER (WHERE state = 'failed') AS failed,
                 count(*) FILTER (WHERE state = 'cancelled') AS cancelled, count(*) AS ended FROM ended) AS c
    WHERE b.id = $1 AND c.ended > 0
)
SELECT ordinal, partition_key, state, attempt_count, duration_ms FROM ended ORDER BY ordinal
