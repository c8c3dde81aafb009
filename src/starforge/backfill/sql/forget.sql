-- forget: a backfill that ended long ago, and of which no partition is left, is gone with its poison rows.         (D-20)
-- takes   id uuid
-- gives   nothing
-- index   backfill_jobs_pkey; of what refers to it, backfill_partitions_pkey, backfill_poison_pkey, backfill_jobs_children
DELETE FROM backfill_jobs WHERE id = $1 AND closed_at IS NOT NULL
