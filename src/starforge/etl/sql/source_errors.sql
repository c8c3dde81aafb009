-- source_errors: how a source's snapshots failed lately, and the first that did.                            (F-34, F-66)
-- takes   source text or null for all, seconds back float8
-- gives   rows (source, error_type, failures, first_at, last_at, first_snapshot_id, path: the field that the first names)
-- index   etl_errors_created
SELECT source, error_type, count(*) AS failures, min(created_at) AS first_at, max(created_at) AS last_at,
       (array_agg(snapshot_id ORDER BY created_at, id))[1] AS first_snapshot_id,
       (array_agg(details ->> 'path' ORDER BY created_at, id) FILTER (WHERE details ->> 'path' IS NOT NULL))[1] AS path
FROM etl_errors
WHERE created_at > sf_now() - make_interval(secs => $2) AND ($1::text IS NULL OR source = $1)
GROUP BY source, error_type
ORDER BY failures DESC, source, error_type
