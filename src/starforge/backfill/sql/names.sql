-- names: the ordinals of an asset's named partitions, those of names that are declared no more among them.
-- takes   asset_name text
-- gives   rows (partition_key, ordinal)
-- index   backfill_names_pkey
SELECT partition_key, ordinal FROM backfill_names WHERE asset_name = $1
