-- names_lock: only one transaction at a time gives ordinals to an asset's names.             (D-14)
-- takes   asset_name text
-- gives   one row; it waits for the others
-- index   none: an advisory lock until the transaction ends
SELECT pg_advisory_xact_lock(hashtextextended($1, 5017))
