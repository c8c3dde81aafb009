-- tokens_beyond: limits beyond which somebody still runs jobs: they were lowered, or came after the jobs.       (F-26, J-34)
-- takes   scopes text[], names text[], keys text[], limits int[] (one limit each)
-- gives   rows (scope, name, key) of those beyond which a living worker holds a slot
-- index   limit_tokens_pkey, workers_pkey
SELECT limited.scope, limited.name, limited.key
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS limited (scope, name, key, most)
WHERE EXISTS (
    SELECT 1 FROM limit_tokens AS held JOIN workers AS w ON w.id = held.worker_id AND w.state IN ('running', 'stopping')
    WHERE held.scope = limited.scope AND held.name = limited.name AND held.key = limited.key AND held.slot > limited.most
)
