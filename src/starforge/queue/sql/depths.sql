-- depths: how many jobs there are by queue, type and status, and since when the oldest waits.   (Q-07, Q-08, J-05)
-- takes   nothing
-- gives   a row per queue, type and status: jobs, of them due (their time to run has come), oldest_due_s,
--         retrying (failed before)
-- index   none: it counts the hot table, which holds only live jobs
SELECT queue, type, status,
       count(*) AS jobs,
       count(*) FILTER (WHERE run_after <= sf_now()) AS due,
       extract(epoch FROM sf_now() - min(run_after) FILTER (WHERE run_after <= sf_now()))::float8 AS oldest_due_s,
       count(*) FILTER (WHERE attempts > 0) AS retrying
FROM queue_jobs
GROUP BY queue, type, status
ORDER BY queue, type, status
