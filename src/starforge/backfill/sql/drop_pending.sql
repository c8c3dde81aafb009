-- drop_pending: of a backfill that was ended, some more partitions that wait are cancelled.                        (B-28)
-- takes   backfill_job_id uuid, after bigint, most integer
-- gives   rows (ordinal)
-- index   backfill_partitions_pkey
UPDATE backfill_partitions AS p
SET state = 'cancelled', completed_at = sf_now(), updated_at = sf_now()
FROM (SELECT ordinal FROM backfill_partitions WHERE backfill_job_id = $1 AND ordinal > $2 AND state = 'pending'
      ORDER BY ordinal LIMIT $3 FOR UPDATE) AS left_over
WHERE p.backfill_job_id = $1 AND p.ordinal = left_over.ordinal
RETURNING p.ordinal
