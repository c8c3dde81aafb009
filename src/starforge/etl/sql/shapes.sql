-- shapes: how what a source sends has changed, latest first.                                                (F-34, F-66)
-- takes   tenant_id text, source text, most integer or null for all
-- gives   rows (fingerprint, new_paths, snapshot_id, snapshots, first_seen, last_seen)
-- index   source_shapes_pkey
SELECT fingerprint, new_paths, snapshot_id, snapshots, first_seen, last_seen
FROM source_shapes
WHERE tenant_id = $1 AND source = $2
ORDER BY first_seen DESC, fingerprint
LIMIT $3
