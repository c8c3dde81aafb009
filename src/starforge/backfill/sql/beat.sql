-- beat: the coordinator of a backfill lives; nothing else is new.                                                     (D-12)
-- takes   id uuid
-- gives   one row (heartbeat_at)
-- index   backfill_jobs_pkey
UPDATE backfill_jobs SET heartbeat_at = sf_now() WHERE id = $1 RETURNING heartbeat_at
