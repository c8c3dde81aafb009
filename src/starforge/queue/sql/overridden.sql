-- overridden: one override, locked for the change that follows.                                      (X-16)
-- takes   scope text, name text, setting text
-- gives   one row while it holds, or none
-- index   setting_overrides_pkey
SELECT scope, name, setting, value, owner, reason, created_at, expires_at
FROM setting_overrides
WHERE scope = $1 AND name = $2 AND setting = $3 AND expires_at > sf_now()
FOR UPDATE
