-- makers: the backfills that may have made some of an asset's places, the newest first.
-- takes   tenant_id text, asset_name text, wanted int8multirange
-- gives   rows (id, places int8multirange: what of the wanted it covers, whole: it completed all of that)
-- index   backfill_jobs_asset; no partition is read. One without a cover was written by hand, and may have made anything
SELECT id, CASE WHEN isempty(covers) THEN $3::int8multirange ELSE covers * $3::int8multirange END AS places,
       state = 'completed' AND failed_partitions = 0 AND cancelled_partitions = 0 AND NOT isempty(covers) AS whole
FROM backfill_jobs
WHERE tenant_id = $1 AND asset_name = $2 AND (isempty(covers) OR covers && $3::int8multirange)
ORDER BY created_at DESC, id DESC
