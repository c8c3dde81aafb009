-- states: the next partitions of a backfill, a letter for each: p pending, r running, c completed, f failed, x cancelled.
-- takes   backfill_job_id uuid, after bigint, most integer
-- gives   one row (states text in the order of ordinals, last bigint: the ordinal of the last one); nulls where there are no more
-- index   backfill_partitions_pkey
SELECT string_agg(CASE state WHEN 'cancelled' THEN 'x' ELSE left(state, 1) END, '' ORDER BY ordinal) AS states, max(ordinal) AS last
FROM (SELECT ordinal, state FROM backfill_partitions WHERE backfill_job_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3) AS next
