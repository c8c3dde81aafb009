-- mode_reset: a source is read again as its mapping says.                                                         (F-36)
-- takes   tenant_id text ('' for all), source text
-- gives   one row (tenant_id, source, mode, owner, reason, created_at, expires_at), or none where nothing was set
-- index   source_modes_pkey
DELETE FROM source_modes WHERE tenant_id = $1 AND source = $2 AND expires_at > sf_now()
RETURNING tenant_id, source, mode, owner, reason, created_at, expires_at
