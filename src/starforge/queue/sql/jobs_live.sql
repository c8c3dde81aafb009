-- jobs_live: the newest jobs of the queue that fit.                                                (D-19)
-- takes   queue text, type text, state text (pending, scheduled, retry or a status), tag text, each or null; most int
-- gives   rows, the newest id first
-- index   queue_jobs_pkey backwards, queue_jobs_held for the states that hold; planned for its arguments
SELECT id, tenant_id AS tenant, queue, type,
       CASE WHEN status <> 'pending' THEN status WHEN attempts > 0 THEN 'retry'
            WHEN run_after > sf_now() THEN 'scheduled' ELSE 'pending' END AS state,
       priority, attempts, max_attempts, run_after, created_at, NULL::timestamptz AS ended_at, tags,
       last_error ->> 'reason' AS error
FROM queue_jobs
WHERE ($1::text IS NULL OR queue = $1) AND ($2::text IS NULL OR type = $2) AND ($4::text IS NULL OR tags @> ARRAY[$4])
  AND CASE $3::text
          WHEN 'pending' THEN status = 'pending' AND attempts = 0 AND run_after <= sf_now()
          WHEN 'scheduled' THEN status = 'pending' AND attempts = 0 AND run_after > sf_now()
          WHEN 'retry' THEN status = 'pending' AND attempts > 0
          ELSE $3 IS NULL OR status = $3 END
ORDER BY id DESC
LIMIT $5::int
