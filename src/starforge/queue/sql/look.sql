-- look: what waits in the lanes that a worker knows, and which lanes there are besides.
-- takes   queues text[], types text[] (all that the worker serves); of each lane that it knows: queues text[],
--         types text[], priorities int[], tenants text[], limit keys text[], since float8[] in s since 1970
-- gives   rows (place, queue, type, priority, tenant, limit_key, oldest_s, now_s): for each known lane its place from 1
--         and since when its oldest job from `since` on is due, null where none is; new lanes with place null
-- index   queue_jobs_lane: one probe per known lane, and a few per gap between them. Known lanes are never walked
--         through to find others: under a long transaction they are full of dead entries. A gap is searched from its
--         upper end down, in ranges of one column each: Postgres 15 stops a comparison of rows at its first column only
WITH RECURSIVE known AS MATERIALIZED (
    SELECT * FROM unnest($3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::float8[])
        WITH ORDINALITY AS lane (queue, type, priority, tenant, limit_key, since, place)
), bound AS (
    SELECT queue, type, priority::bigint AS priority, tenant, limit_key FROM known
    UNION ALL
    SELECT q.queue, t.type, 2147483648, '', '' FROM unnest($1::text[]) AS q (queue), unnest($2::text[]) AS t (type)
), found AS (
    SELECT false AS new, queue, type, priority, tenant, limit_key,
           lag(priority, 1, -2147483649) OVER up AS low_priority, lag(tenant, 1, '') OVER up AS low_tenant,
           lag(limit_key, 1, '') OVER up AS low_key
    FROM bound WINDOW up AS (PARTITION BY queue, type ORDER BY priority, tenant, limit_key)
    UNION ALL
    SELECT true, found.queue, found.type, next.priority, next.tenant_id, next.limit_key,
           found.low_priority, found.low_tenant, found.low_key
    FROM found CROSS JOIN LATERAL (
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.limit_key <> '' AND (found.priority, found.tenant) <> (found.low_priority, found.low_tenant) AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority = found.priority AND j.tenant_id = found.tenant AND j.limit_key < found.limit_key
         ORDER BY j.limit_key DESC LIMIT 1)
        UNION ALL
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.limit_key <> '' AND (found.priority, found.tenant) = (found.low_priority, found.low_tenant) AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority = found.priority AND j.tenant_id = found.tenant AND j.limit_key < found.limit_key AND j.limit_key > found.low_key
         ORDER BY j.limit_key DESC LIMIT 1)
        UNION ALL
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.priority <= 2147483647 AND found.priority <> found.low_priority AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority = found.priority AND j.tenant_id < found.tenant
         ORDER BY j.tenant_id DESC, j.limit_key DESC LIMIT 1)
        UNION ALL
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.priority = found.low_priority AND found.tenant <> found.low_tenant AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority = found.priority AND j.tenant_id < found.tenant AND j.tenant_id > found.low_tenant
         ORDER BY j.tenant_id DESC, j.limit_key DESC LIMIT 1)
        UNION ALL
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.priority > found.low_priority + 1 AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority < found.priority AND j.priority > found.low_priority
         ORDER BY j.priority DESC, j.tenant_id DESC, j.limit_key DESC LIMIT 1)
        UNION ALL
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.low_priority >= -2147483648 AND found.priority <> found.low_priority AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority = found.low_priority AND j.tenant_id > found.low_tenant
         ORDER BY j.tenant_id DESC, j.limit_key DESC LIMIT 1)
        UNION ALL
        (SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
         WHERE found.low_priority >= -2147483648 AND (found.priority, found.tenant) <> (found.low_priority, found.low_tenant) AND j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
           AND j.priority = found.low_priority AND j.tenant_id = found.low_tenant AND j.limit_key > found.low_key
         ORDER BY j.limit_key DESC LIMIT 1)
        LIMIT 1
    ) AS next
), new AS (
    SELECT queue, type, priority, tenant, limit_key FROM found WHERE new LIMIT 500
)
SELECT lane.place, lane.queue, lane.type, lane.priority, lane.tenant, lane.limit_key,
       (SELECT extract(epoch FROM j.run_after)::float8 FROM queue_jobs j
        WHERE j.queue = lane.queue AND j.type = lane.type AND j.priority = lane.priority AND j.tenant_id = lane.tenant
          AND j.limit_key = lane.limit_key AND j.status = 'pending'
          AND j.run_after >= to_timestamp(lane.since) AND j.run_after <= sf_now()
        ORDER BY j.run_after LIMIT 1) AS oldest_s,
       extract(epoch FROM sf_now())::float8 AS now_s
FROM (
    SELECT place, queue, type, priority, tenant, limit_key, since FROM known
    UNION ALL
    SELECT NULL, queue, type, priority::int, tenant, limit_key, '-infinity' FROM new
) AS lane
