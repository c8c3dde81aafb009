-- walk_begin: what is known of a partition's poison rows as an attempt begins to walk it.                            (B-24)
-- takes   backfill_job_id uuid, ordinal bigint, first bigint and end bigint: the partition's keys
-- gives   one row (poison int, again bigint[]: those that were found before the partition was reopened), or none where
--         there is no such partition
-- index   backfill_partitions_pkey, backfill_poison_pkey
SELECT count(q.row_key)::int AS poison,
       coalesce(array_agg(q.row_key ORDER BY q.row_key) FILTER (WHERE q.created_at < p.reopened_at), '{}') AS again
FROM backfill_partitions AS p
LEFT JOIN backfill_poison AS q ON q.backfill_job_id = $1 AND q.row_key >= $3 AND q.row_key < $4
WHERE p.backfill_job_id = $1 AND p.ordinal = $2
GROUP BY p.ordinal
