-- overrides: what is overridden now, for everybody or for one worker.                   (F-26, F-32, X-16)
-- takes   worker_id uuid, or null for every override
-- gives   rows (scope, name, setting, value, owner, reason, created_at, expires_at): of a worker its own, and those
--         that were meant for it before its child died and it registered again
-- index   setting_overrides_pkey; there are a handful
WITH RECURSIVE me AS (
    SELECT id, previous_id, 1 AS lives FROM workers WHERE id = $1
    UNION ALL
    SELECT w.id, w.previous_id, me.lives + 1 FROM me JOIN workers AS w ON w.id = me.previous_id WHERE me.lives < 50
)
SELECT scope, name, setting, value, owner, reason, created_at, expires_at
FROM setting_overrides
WHERE expires_at > sf_now()
  AND ($1::uuid IS NULL OR scope <> 'worker' OR name IN (SELECT id::text FROM me))
ORDER BY scope, name, setting
