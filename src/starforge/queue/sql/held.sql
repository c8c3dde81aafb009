-- held: how many jobs stand before a gate, and whether anybody knows its name.            (Q-47)
-- takes   scope text (queue, type, tenant or tag), name text
-- gives   one row (waiting, of them retries, known)
-- index   queue_jobs_lane for a queue, a scan of the hot table for a type, a tenant or a tag;
--         each part but the scope's own is cut off by its first condition before it is run
SELECT coalesce(sum(waiting), 0)::bigint AS waiting,
       coalesce(sum(retries), 0)::bigint AS retries,
       coalesce(sum(waiting), 0) > 0
       OR EXISTS (SELECT 1 FROM queue_jobs WHERE $1 = 'queue' AND queue = $2)
       OR EXISTS (SELECT 1 FROM queue_jobs WHERE $1 = 'type' AND type = $2)
       OR EXISTS (SELECT 1 FROM queue_jobs WHERE $1 = 'tenant' AND tenant_id = $2)
       OR EXISTS (SELECT 1 FROM queue_jobs WHERE $1 = 'tag' AND tags @> ARRAY[$2::text])
       OR EXISTS (SELECT 1 FROM job_types WHERE ($1 = 'queue' AND queue = $2) OR ($1 = 'type' AND name = $2))
       OR EXISTS (
           SELECT 1 FROM workers
           WHERE state IN ('running', 'stopping') AND lease_expires_at > sf_now()
             AND (($1 = 'queue' AND $2 = ANY (queues)) OR ($1 = 'type' AND $2 = ANY (types)))
       ) AS known
FROM (
    SELECT count(*) AS waiting, count(*) FILTER (WHERE attempts > 0) AS retries
    FROM queue_jobs WHERE $1 = 'queue' AND queue = $2 AND status = 'pending'
    UNION ALL
    SELECT count(*), count(*) FILTER (WHERE attempts > 0)
    FROM queue_jobs WHERE $1 = 'type' AND type = $2 AND status = 'pending'
    UNION ALL
    SELECT count(*), count(*) FILTER (WHERE attempts > 0)
    FROM queue_jobs WHERE $1 = 'tenant' AND tenant_id = $2 AND status = 'pending'
    UNION ALL
    SELECT count(*), count(*) FILTER (WHERE attempts > 0)
    FROM queue_jobs WHERE $1 = 'tag' AND tags @> ARRAY[$2::text] AND status = 'pending'
) AS counted
