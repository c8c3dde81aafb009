-- shape_count: so many more documents were of a source's newest shape.                                            (F-66)
-- takes   tenant_id text, source text, snapshots bigint
-- gives   nothing
-- index   source_shapes_pkey
UPDATE source_shapes SET snapshots = snapshots + $3, last_seen = sf_now()
WHERE (tenant_id, source, fingerprint) = (
    SELECT tenant_id, source, fingerprint FROM source_shapes WHERE tenant_id = $1 AND source = $2
    ORDER BY first_seen DESC, fingerprint LIMIT 1)
