-- erase_errors: the errors of these snapshots go, and those of the source that speak of the subject.
-- takes   tenant_id text, source text, subject text, snapshot ids uuid[]
-- gives   nothing; the count is in the command's tag
-- index   etl_errors_snapshot; those of the source are read
DELETE FROM etl_errors
WHERE snapshot_id = ANY ($4::uuid[])
   OR tenant_id = $1 AND (source = $2 OR source IS NULL) AND (sf_mentions(message, $3) OR sf_mentions(details::text, $3))
