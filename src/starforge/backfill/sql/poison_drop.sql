-- poison_drop: a row got through after all.
-- takes   backfill_job_id uuid, row_key bigint
-- gives   nothing
-- index   backfill_poison_pkey
DELETE FROM backfill_poison WHERE backfill_job_id = $1 AND row_key = $2
