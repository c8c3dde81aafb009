-- depths: how many jobs there are by queue, type and status, and since when the oldest waits.   (Q-07, Q-08)
-- takes   nothing
-- gives   a row per queue, type and status: jobs, of them due (their time to run has come), oldest_due_s
-- index   none: it counts the hot table, which holds only live jobs
SELECT queue, type, status,
       count(*) AS jobs,
       count(*) FILTER (WHERE run_after <= sf_now()) AS due,
       extract(epoch FROM sf_now() - min(run_after) FILTER (WHERE run_after <= sf_now()))::float8 AS oldest_due_s
FROM queue_jobs
GROUP BY queue, type, status
ORDER BY queue, type, status
