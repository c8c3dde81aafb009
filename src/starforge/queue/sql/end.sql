-- end: a closed gate opens.                                                         (Q-30, Q-47, F-31, X-11)
-- takes   scope text, name text, cause text
-- gives   one row (the gate that ended), or none when it is open
-- index   gates_one_of_a_cause
DELETE FROM gates
WHERE scope = $1 AND name = $2 AND cause = $3 AND expires_at > sf_now()
RETURNING scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail
