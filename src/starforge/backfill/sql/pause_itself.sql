-- pause_itself: a backfill stops by a rule of its own; somebody has to look and resume it.                         (B-17)
-- takes   id uuid, by text, reason text
-- gives   nothing
-- index   backfill_jobs_pkey
UPDATE backfill_jobs
SET state = 'paused', paused_at = sf_now(), version = version + 1, state_by = $2, state_reason = $3, updated_at = sf_now()
WHERE id = $1 AND state = 'running'
