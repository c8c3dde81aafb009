-- sizes: how large a tenant's snapshots are.                                                            (O-41)
-- takes   tenant_id text, since_s float8 or null, bounds bigint[] in bytes, rising
-- gives   rows (bucket: 0 below the first bound, snapshots, bytes, largest)
-- index   hero_snapshots_created
SELECT width_bucket(size_bytes, $3::bigint[]) AS bucket, count(*) AS snapshots, sum(size_bytes)::bigint AS bytes,
       max(size_bytes) AS largest
FROM hero_snapshots
WHERE tenant_id = $1 AND created_at >= coalesce(sf_now() - make_interval(secs => $2), '-infinity')
GROUP BY 1
ORDER BY 1
