-- modes: how sources are read now against their mappings' own word.                                               (F-36)
-- takes   source text or null for all
-- gives   rows (tenant_id, source, mode, owner, reason, created_at, expires_at)
-- index   source_modes_pkey; there are a handful
SELECT tenant_id, source, mode, owner, reason, created_at, expires_at
FROM source_modes
WHERE expires_at > sf_now() AND ($1::text IS NULL OR source = $1)
ORDER BY source, tenant_id
