-- uncounted: the partitions of a backfill that are over and that no coordinator has counted yet.                  (B-18)
-- takes   backfill_job_id uuid
-- gives   rows (ordinal), each once
-- index   backfill_ended_job
SELECT DISTINCT ordinal FROM backfill_ended WHERE backfill_job_id = $1 AND outcome <> 'retried'
