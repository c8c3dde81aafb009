-- dead_letters: how many there are by type.                                               (Q-65)
-- takes   nothing
-- gives   rows (type, letters)
-- index   queue_jobs_dlq_type
SELECT type, count(*) AS letters FROM queue_jobs_dlq GROUP BY type ORDER BY type
