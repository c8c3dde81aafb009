-- close: jobs are withheld until the gate expires or is ended.                      (Q-30, Q-47, F-31, X-11)
-- takes   scope text, name text, cause text, owner text, reason text, minutes integer,
--         rate_per_s float8 or null: what it lets through, detail jsonb
-- gives   one row, or none when a gate with this owner, reason and rate ends within the same minute already
-- index   gates_one_of_a_cause
INSERT INTO gates (scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail)
VALUES ($1, $2, $3, $4, $5, sf_now(), sf_now() + make_interval(mins => $6), $7, $8)
ON CONFLICT ON CONSTRAINT gates_one_of_a_cause DO UPDATE
SET owner = excluded.owner,
    reason = excluded.reason,
    expires_at = excluded.expires_at,
    rate_per_s = excluded.rate_per_s,
    detail = excluded.detail,
    created_at = CASE WHEN gates.expires_at > sf_now() THEN gates.created_at ELSE excluded.created_at END
WHERE gates.owner <> excluded.owner
   OR gates.reason <> excluded.reason
   OR gates.rate_per_s IS DISTINCT FROM excluded.rate_per_s
   OR abs(extract(epoch FROM excluded.expires_at - gates.expires_at)) >= 60
   OR gates.expires_at < sf_now() + interval '10 seconds'
RETURNING scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail
