-- budget_lock: one worker after the other takes its share of the connections.                       (Q-62)
-- takes   nothing
-- gives   nothing; the lock ends with the transaction, also behind a pooler
-- index   none
SELECT pg_advisory_xact_lock(hashtextextended('starforge connections', 0))
