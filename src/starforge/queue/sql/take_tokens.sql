-- take_tokens: a worker leases free slots of limits, as many as it asks for and there are.              (Q-47, J-34)
-- takes   scopes text[], names text[], keys text[], limits int[], how many more int[] (one limit each), worker_id uuid,
--         a number >= 0 that tells workers apart: each begins to look at another slot, so that they seldom meet
-- gives   rows (scope, name, key, slot) of what it got; nothing where its own lease has ended
-- index   limit_tokens_pkey. A slot is free where it has no row, or its holder is recorded as ended: a lease that has
--         only run out may be extended by a heartbeat under way, so `expire` decides, under the row's lock. Where two take
--         the same slot, the second waits for the first and finds it taken just now: who that is, and whether it lives, its
--         own snapshot may not know yet. Among as many slots as it wants and have rows there are as many free ones, if at all
WITH live AS MATERIALIZED (
    SELECT ARRAY (SELECT id FROM workers WHERE state IN ('running', 'stopping')) AS ids
)
INSERT INTO limit_tokens (scope, name, key, slot, worker_id, taken_at)
SELECT want.scope, want.name, want.key, free.slot, $6, sf_now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[]) AS want (scope, name, key, most, more)
CROSS JOIN LATERAL (
    SELECT count(*)::int AS rows FROM limit_tokens AS held
    WHERE held.scope = want.scope AND held.name = want.name AND held.key = want.key
) AS known
CROSS JOIN LATERAL (
    SELECT 1 + (step + ($7::bigint % want.most)::int) % want.most AS slot
    FROM generate_series(0, least(want.most, want.more + known.rows) - 1) AS step
    EXCEPT
    SELECT held.slot FROM limit_tokens AS held
    WHERE held.scope = want.scope AND held.name = want.name AND held.key = want.key
      AND held.worker_id = ANY ((SELECT ids FROM live)::uuid[])
    LIMIT want.more
) AS free
WHERE EXISTS (SELECT 1 FROM workers AS me WHERE me.id = $6 AND me.state = 'running' AND me.lease_expires_at > sf_now())
ORDER BY want.scope, want.name, want.key, free.slot
ON CONFLICT (scope, name, key, slot) DO UPDATE
SET worker_id = excluded.worker_id, taken_at = excluded.taken_at
WHERE limit_tokens.taken_at < sf_now() AND limit_tokens.worker_id <> ALL ((SELECT ids FROM live)::uuid[])
RETURNING scope, name, key, slot
