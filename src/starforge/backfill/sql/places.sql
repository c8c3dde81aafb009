-- places: how many partitions a backfill has, and between which ordinals.
-- takes   backfill_job_id uuid
-- gives   one row (count, first, last)
-- index   backfill_partitions_pkey
SELECT count(*), min(ordinal) AS first, max(ordinal) AS last FROM backfill_partitions WHERE backfill_job_id = $1
