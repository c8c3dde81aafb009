-- reset: a setting is again what it is without its override.                                        (X-16)
-- takes   scope text, name text, setting text
-- gives   one row (the override that ended), or none when there is none
-- index   setting_overrides_pkey
DELETE FROM setting_overrides
WHERE scope = $1 AND name = $2 AND setting = $3 AND expires_at > sf_now()
RETURNING scope, name, setting, value, owner, reason, created_at, expires_at
