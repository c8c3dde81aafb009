-- held: how many jobs of a queue wait, and whether anybody knows the queue.
-- takes   name text
-- gives   one row (waiting, known)
-- index   queue_jobs_lane, workers_live
SELECT (SELECT count(*) FROM queue_jobs WHERE queue = $1 AND status = 'pending') AS waiting,
       EXISTS (SELECT 1 FROM queue_jobs WHERE queue = $1)
       OR EXISTS (
           SELECT 1 FROM workers
           WHERE state IN ('running', 'stopping') AND lease_expires_at > sf_now() AND $1 = ANY (queues)
       ) AS known
