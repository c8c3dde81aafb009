-- known_types: the types that workers declared, with their queues.
-- takes   nothing
-- gives   rows (queue, type)
-- index   none: there are few
SELECT queue, name AS type FROM job_types ORDER BY queue, name
