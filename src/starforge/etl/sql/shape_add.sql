-- shape_add: a document brought paths that no earlier one of its source had.                                (F-34, F-66)
-- takes   tenant_id text, source text, fingerprint text, new_paths text[], snapshot_id uuid or null
-- gives   one row (first: nothing was known of the source before)
-- index   source_shapes_pkey
INSERT INTO source_shapes AS s (tenant_id, source, fingerprint, new_paths, snapshot_id)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, source, fingerprint) DO UPDATE SET last_seen = sf_now(), snapshots = s.snapshots + 1
RETURNING NOT EXISTS (SELECT FROM source_shapes o WHERE o.tenant_id = $1 AND o.source = $2) AS first
