-- upkeep_ages: how long ago each of the leader's tasks succeeded; one that never did counts from its first try.
-- takes   nothing
-- gives   rows (name, age_s)
-- index   none: there are few
SELECT name, extract(epoch FROM sf_now() - coalesce(done_at, since))::float8 AS age_s FROM upkeep_tasks ORDER BY name
