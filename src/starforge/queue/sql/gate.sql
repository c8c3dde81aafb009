-- gate: one closed gate, locked for the change that follows.                              (Q-30, X-11)
-- takes   scope text, name text, cause text
-- gives   one row while it holds, or none
-- index   gates_one_of_a_cause
SELECT scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail
FROM gates
WHERE scope = $1 AND name = $2 AND cause = $3 AND expires_at > sf_now()
FOR UPDATE
