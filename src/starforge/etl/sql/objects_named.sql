-- objects_named: which of these objects a row names; asked as a role that sees the rows of all tenants.
-- takes   keys text[]
-- gives   rows (key)
-- index   hero_snapshots_raw_key, snapshot_quarantine_raw_key
SELECT wanted.key FROM unnest($1::text[]) AS wanted (key)
WHERE EXISTS (SELECT 1 FROM hero_snapshots s WHERE s.raw_key = wanted.key)
   OR EXISTS (SELECT 1 FROM snapshot_quarantine q WHERE q.raw_key = wanted.key)
