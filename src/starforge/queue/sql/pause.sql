-- pause: a queue's jobs are withheld until the pause expires or is resumed.               (Q-30, X-11)
-- takes   name text, owner text, reason text, minutes integer
-- gives   one row, or none when a pause with this owner and reason ends within the same minute already
-- index   gates_one_of_a_cause
INSERT INTO gates (scope, name, cause, owner, reason, created_at, expires_at)
VALUES ('queue', $1, 'pause', $2, $3, sf_now(), sf_now() + make_interval(mins => $4))
ON CONFLICT ON CONSTRAINT gates_one_of_a_cause DO UPDATE
SET owner = excluded.owner,
    reason = excluded.reason,
    expires_at = excluded.expires_at,
    created_at = CASE WHEN gates.expires_at > sf_now() THEN gates.created_at ELSE excluded.created_at END
WHERE gates.owner <> excluded.owner
   OR gates.reason <> excluded.reason
   OR abs(extract(epoch FROM excluded.expires_at - gates.expires_at)) >= 60
   OR gates.expires_at < sf_now() + interval '10 seconds'
RETURNING scope, name, cause, owner, reason, created_at, expires_at
