-- explain_queue: whether a live worker serves a queue and knows one of these types.               (X-19)
-- takes   queue text, types text[]
-- gives   one boolean
-- index   workers_live
SELECT EXISTS (
    SELECT 1 FROM workers
    WHERE state = 'running' AND lease_expires_at > sf_now() AND $1 = ANY (queues) AND types && $2::text[]
)
