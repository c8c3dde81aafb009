-- gate: the pause of one queue, locked for the change that follows.                       (Q-30, X-11)
-- takes   name text
-- gives   one row while the pause holds, or none
-- index   gates_one_of_a_cause
SELECT scope, name, cause, owner, reason, created_at, expires_at
FROM gates
WHERE scope = 'queue' AND name = $1 AND cause = 'pause' AND expires_at > sf_now()
FOR UPDATE
