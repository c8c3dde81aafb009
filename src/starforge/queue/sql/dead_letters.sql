-- dead_letters: how many there are by type and class of error.                            (Q-65, J-06)
-- takes   nothing
-- gives   rows (type, error_class, letters, archived): of them those whose job has left the queue
-- index   queue_jobs_dlq_class, alone
SELECT type, error_class, count(*) AS letters, count(archived_at) AS archived
FROM queue_jobs_dlq
GROUP BY type, error_class
ORDER BY type, error_class
