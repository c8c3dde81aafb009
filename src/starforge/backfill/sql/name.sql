-- name: names of an asset get their ordinals, for good.                                      (D-14)
-- takes   asset_name text, keys text[], ordinals bigint[]
-- gives   nothing
-- index   backfill_names_pkey, backfill_names_ordinal
INSERT INTO backfill_names (asset_name, partition_key, ordinal)
SELECT $1, key, ordinal FROM unnest($2::text[], $3::bigint[]) AS named (key, ordinal)
