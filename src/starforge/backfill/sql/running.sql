-- running: for how long those of these partitions that run have been running.                                        (B-48)
-- takes   backfill_job_id uuid, ordinals bigint[]
-- gives   rows (ordinal, age_s)
-- index   backfill_partitions_pkey
SELECT ordinal, greatest(0, extract(epoch FROM sf_now() - started_at))::float8 AS age_s
FROM backfill_partitions
WHERE backfill_job_id = $1 AND ordinal = ANY ($2::bigint[]) AND state = 'running'
