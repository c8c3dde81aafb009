-- token_used: a token was used, said at most once a minute.
-- takes   id uuid
-- gives   nothing
-- index   api_tokens_pkey
UPDATE api_tokens
SET last_used_at = sf_now()
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < sf_now() - interval '1 minute')
