-- ordinals: the next ordinals of a backfill, with what is over or runs there.
-- takes   backfill_job_id uuid, after bigint, most integer
-- gives   one row (ordinals bigint[], over bigint[], running bigint[])
-- index   backfill_partitions_pkey
SELECT array_agg(ordinal ORDER BY ordinal) AS ordinals,
       array_agg(ordinal) FILTER (WHERE state IN ('completed', 'failed', 'cancelled')) AS over,
       array_agg(ordinal) FILTER (WHERE state = 'running') AS running
FROM (SELECT ordinal, state FROM backfill_partitions WHERE backfill_job_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3) AS next
