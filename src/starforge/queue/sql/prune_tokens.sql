-- prune_tokens: tokens of workers that have ended; they were free already.                              (Q-47)
-- takes   most int
-- gives   nothing; the count is in the command's tag
-- index   none: they are few, and most belong to living workers
DELETE FROM limit_tokens
WHERE ctid = ANY (ARRAY (
    SELECT t.ctid FROM limit_tokens AS t
    WHERE t.taken_at < sf_now() - interval '1 hour'
      AND NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = t.worker_id AND w.state IN ('running', 'stopping'))
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
