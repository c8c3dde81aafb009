-- resume: a paused queue's jobs may start again.                                          (Q-30, X-11)
-- takes   name text
-- gives   one row (the pause that ended), or none when the queue is not paused
-- index   gates_one_of_a_cause
DELETE FROM gates
WHERE scope = 'queue' AND name = $1 AND cause = 'pause' AND expires_at > sf_now()
RETURNING scope, name, cause, owner, reason, created_at, expires_at
