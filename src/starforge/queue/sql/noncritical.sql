-- noncritical: the queues that hold no critical type and that none is declared for.       (Q-45, Q-46)
-- takes   nothing
-- gives   rows (queue), sorted
-- index   none: a scan of the hot table, for an operator's word
WITH known AS (
    SELECT queue, bool_or(critical) AS critical FROM job_types GROUP BY queue
    UNION ALL
    SELECT job.queue, bool_or(coalesce(type.critical, false))
    FROM (SELECT DISTINCT queue, type FROM queue_jobs) AS job
    LEFT JOIN job_types AS type ON type.name = job.type
    GROUP BY job.queue
)
SELECT queue FROM known GROUP BY queue HAVING NOT bool_or(critical) ORDER BY queue
