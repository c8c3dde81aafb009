-- lanes: which (queue, type, priority) have pending jobs: one index probe each, however many wait.
-- takes   queues text[], types text[]
-- gives   rows (queue, type, priority), highest priority first
-- index   queue_jobs_ready
WITH RECURSIVE lane AS (
    SELECT q.queue, t.type,
           (SELECT max(j.priority) FROM queue_jobs j
            WHERE j.queue = q.queue AND j.type = t.type AND j.status = 'pending') AS priority
    FROM unnest($1::text[]) AS q (queue), unnest($2::text[]) AS t (type)
    UNION ALL
    SELECT lane.queue, lane.type,
           (SELECT max(j.priority) FROM queue_jobs j
            WHERE j.queue = lane.queue AND j.type = lane.type AND j.status = 'pending'
              AND j.priority < lane.priority)
    FROM lane
    WHERE lane.priority IS NOT NULL
)
SELECT queue, type, priority FROM lane WHERE priority IS NOT NULL ORDER BY priority DESC, queue, type
