-- override: a setting has another value until it expires or is reset.                         (X-11, X-16)
-- takes   scope text, name text, setting text, value jsonb, owner text, reason text, minutes integer
-- gives   one row, or none when it says the same and ends within the same minute already
-- index   setting_overrides_pkey
INSERT INTO setting_overrides (scope, name, setting, value, owner, reason, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, sf_now(), sf_now() + make_interval(mins => $7))
ON CONFLICT (scope, name, setting) DO UPDATE
SET value = excluded.value,
    owner = excluded.owner,
    reason = excluded.reason,
    expires_at = excluded.expires_at,
    created_at = CASE WHEN setting_overrides.expires_at > sf_now() THEN setting_overrides.created_at ELSE excluded.created_at END
WHERE setting_overrides.value <> excluded.value
   OR setting_overrides.owner <> excluded.owner
   OR setting_overrides.reason <> excluded.reason
   OR abs(extract(epoch FROM excluded.expires_at - setting_overrides.expires_at)) >= 60
   OR setting_overrides.expires_at < sf_now() + interval '10 seconds'
RETURNING scope, name, setting, value, owner, reason, created_at, expires_at
