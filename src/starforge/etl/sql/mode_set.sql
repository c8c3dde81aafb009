-- mode_set: a source is read strictly or tolerantly until it expires.                                             (F-36)
-- takes   tenant_id text ('' for all), source text, mode text, owner text, reason text, minutes integer
-- gives   one row (tenant_id, source, mode, owner, reason, created_at, expires_at)
-- index   source_modes_pkey
INSERT INTO source_modes AS m (tenant_id, source, mode, owner, reason, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, sf_now(), sf_now() + make_interval(mins => $6))
ON CONFLICT (tenant_id, source) DO UPDATE
SET mode = excluded.mode, owner = excluded.owner, reason = excluded.reason, expires_at = excluded.expires_at,
    created_at = CASE WHEN m.expires_at > sf_now() AND m.mode = excluded.mode THEN m.created_at ELSE excluded.created_at END
RETURNING tenant_id, source, mode, owner, reason, created_at, expires_at
