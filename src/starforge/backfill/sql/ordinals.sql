-- ordinals: the next ordinals of a backfill, where they are not all there from the first to the last.
-- takes   backfill_job_id uuid, after bigint, most integer
-- gives   one row (ordinals bigint[])
-- index   backfill_partitions_pkey
SELECT array_agg(ordinal ORDER BY ordinal) AS ordinals
FROM (SELECT ordinal FROM backfill_partitions WHERE backfill_job_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3) AS next
