-- declared: the assets that workers declared.
-- takes   nothing
-- gives   rows (name, scheme, upstream, concurrency, attempts_max, timeout_s, owner, code_version)
-- index   none: there are few
SELECT name, scheme, upstream, concurrency, attempts_max, timeout_s, owner, code_version
FROM backfill_assets
ORDER BY name
