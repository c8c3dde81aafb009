-- breaker_reset: a type runs again whatever its breaker thinks; what finished so far is judged no more.           (Q-68)
-- takes   type text
-- gives   one row (the breaker's gate as it was), or none when it does not hold the type
-- index   gates_one_of_a_cause, job_minutes_pkey
WITH held AS (
    SELECT * FROM gates WHERE scope = 'type' AND name = $1 AND cause = 'breaker' AND expires_at > sf_now() FOR UPDATE
), minute AS (
    SELECT coalesce(sum(completed), 0) AS succeeded, coalesce(sum(failed + retried), 0) AS failed
    FROM job_minutes WHERE minute = date_trunc('minute', sf_now()) AND type = $1
), opened AS (
    UPDATE gates
    SET expires_at = sf_now(), rate_per_s = NULL,
        detail = jsonb_build_object('succeeded', minute.succeeded, 'failed', minute.failed, 'trips', 0,
                                    'moved_s', extract(epoch FROM sf_now()))
    FROM held, minute
    WHERE gates.id = held.id
)
SELECT scope, name, cause, owner, reason, created_at, expires_at, rate_per_s, detail FROM held
