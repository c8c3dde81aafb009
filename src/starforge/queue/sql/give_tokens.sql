-- give_tokens: a worker gives tokens back that it does not need.                                        (Q-47, J-34)
-- takes   scopes text[], names text[], keys text[], slots int[] (one token each), worker_id uuid
-- gives   nothing; what is another worker's by now stays that
-- index   limit_tokens_pkey
DELETE FROM limit_tokens AS held
USING unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS token (scope, name, key, slot)
WHERE held.scope = token.scope AND held.name = token.name AND held.key = token.key AND held.slot = token.slot
  AND held.worker_id = $5
