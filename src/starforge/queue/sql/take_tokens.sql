-- take_tokens: a worker leases free slots of limits, as many as it asks for and there are.              (Q-47, J-34)
-- takes   scopes text[], names text[], keys text[], limits int[], how many more int[] (one limit each), worker_id uuid,
--         a number >= 0 that tells workers apart: each begins to look at another slot, so that they seldom meet
-- gives   rows (scope, name, key, slot) of what it got; nothing where its own lease has ended
-- index   limit_tokens_pkey, workers_pkey. A slot is free where it has no row, or its holder is recorded as ended: a lease
--         that has only run out may be extended by a heartbeat under way, so `expire` decides, under the row's lock. Where
--         two take the same slot, the second waits for the first and finds it taken just now: who it is, and whether it
--         lives, its own snapshot may not know yet
INSERT INTO limit_tokens (scope, name, key, slot, worker_id, taken_at)
SELECT want.scope, want.name, want.key, free.slot, $6, sf_now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[]) AS want (scope, name, key, most, more)
CROSS JOIN LATERAL (
    SELECT place.slot
    FROM generate_series(0, want.most - 1) AS step,
         LATERAL (SELECT 1 + (step + ($7::bigint % want.most)::int) % want.most AS slot) AS place
    WHERE NOT EXISTS (
        SELECT 1 FROM limit_tokens AS held
        WHERE held.scope = want.scope AND held.name = want.name AND held.key = want.key AND held.slot = place.slot
          AND EXISTS (SELECT 1 FROM workers AS w WHERE w.id = held.worker_id AND w.state IN ('running', 'stopping'))
    )
    LIMIT want.more
) AS free
WHERE EXISTS (SELECT 1 FROM workers AS me WHERE me.id = $6 AND me.state = 'running' AND me.lease_expires_at > sf_now())
ORDER BY want.scope, want.name, want.key, free.slot
ON CONFLICT (scope, name, key, slot) DO UPDATE
SET worker_id = excluded.worker_id, taken_at = excluded.taken_at
WHERE limit_tokens.taken_at < sf_now()
  AND NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = limit_tokens.worker_id AND w.state IN ('running', 'stopping'))
RETURNING scope, name, key, slot
