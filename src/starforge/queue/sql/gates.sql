-- gates: everything that is withheld now.                                                 (X-11)
-- takes   nothing
-- gives   a row per gate that has not expired, ordered by scope, name and cause
-- index   gates_one_of_a_cause
SELECT scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail
FROM gates
WHERE expires_at > sf_now()
ORDER BY scope, name, cause
