-- breaker: a type's breaker moves, or is only watched on, if it is still as it was seen.                          (Q-68)
-- takes   type text, owner text, reason text or null to keep it, state text, how long it holds unwatched float8 in s, starts
--         per second while half-open float8, detail jsonb, whether it moves boolean, detail as seen jsonb or null for no row
-- gives   one row (expires_at), or none when somebody moved it meanwhile
-- index   gates_one_of_a_cause
INSERT INTO gates (scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail)
VALUES ('type', $1, 'breaker', $2, coalesce($3, ''), sf_now(), sf_now() + make_interval(secs => $5),
        CASE WHEN $4 = 'half_open' THEN $6::float8 END,
        $7::jsonb || CASE WHEN $8 THEN jsonb_build_object('moved_s', extract(epoch FROM sf_now())) ELSE '{}' END)
ON CONFLICT ON CONSTRAINT gates_one_of_a_cause DO UPDATE
SET reason = coalesce($3, gates.reason),
    created_at = CASE WHEN gates.expires_at > sf_now() THEN gates.created_at ELSE excluded.created_at END,
    expires_at = excluded.expires_at,
    rate_per_s = excluded.rate_per_s,
    detail = excluded.detail
WHERE gates.detail = $9::jsonb
RETURNING expires_at
