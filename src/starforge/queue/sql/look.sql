-- look: what waits in the lanes that a worker knows, and which lanes there are besides.
-- takes   queues text[], types text[] (all that the worker serves); of each lane that it knows: queues text[],
--         types text[], priorities int[], tenants text[], limit keys text[], since float8[] in s since 1970
-- gives   rows (place, queue, type, priority, tenant, limit_key, oldest_s, now_s): for each known lane its place from 1
--         and since when its oldest job from `since` on is due, null where none is; new lanes, of the highest priorities
--         first, with place null
-- index   queue_jobs_lane: one probe per known lane, and one or a few per gap between them. Known lanes are never
--         walked through to find others: under a long transaction they are full of dead entries
WITH RECURSIVE known AS MATERIALIZED (
    SELECT * FROM unnest($3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::float8[])
        WITH ORDINALITY AS lane (queue, type, priority, tenant, limit_key, since, place)
), bound AS (
    SELECT queue, type, priority::bigint AS priority, tenant, limit_key FROM known
    UNION ALL
    SELECT q.queue, t.type, 2147483648, '', '' FROM unnest($1::text[]) AS q (queue), unnest($2::text[]) AS t (type)
), gap AS (
    SELECT queue, type, priority, tenant, limit_key,
           lag(priority, 1, -2147483649) OVER up AS low_priority, lag(tenant, 1, '') OVER up AS low_tenant,
           lag(limit_key, 1, '') OVER up AS low_key
    FROM bound WINDOW up AS (PARTITION BY queue, type ORDER BY priority, tenant, limit_key)
), found AS (
    SELECT gap.queue, gap.type, next.priority::bigint AS priority, next.tenant_id AS tenant, next.limit_key,
           gap.low_priority, gap.low_tenant, gap.low_key
    FROM gap CROSS JOIN LATERAL (
        SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
        WHERE j.queue = gap.queue AND j.type = gap.type AND j.status = 'pending'
          AND (j.priority, j.tenant_id, j.limit_key) < (gap.priority, gap.tenant, gap.limit_key)
          AND (j.priority, j.tenant_id, j.limit_key) > (gap.low_priority, gap.low_tenant, gap.low_key)
        ORDER BY j.priority DESC, j.tenant_id DESC, j.limit_key DESC LIMIT 1
    ) AS next
    UNION ALL
    SELECT found.queue, found.type, next.priority, next.tenant_id, next.limit_key,
           found.low_priority, found.low_tenant, found.low_key
    FROM found CROSS JOIN LATERAL (
        SELECT j.priority, j.tenant_id, j.limit_key FROM queue_jobs j
        WHERE j.queue = found.queue AND j.type = found.type AND j.status = 'pending'
          AND (j.priority, j.tenant_id, j.limit_key) < (found.priority, found.tenant, found.limit_key)
          AND (j.priority, j.tenant_id, j.limit_key) > (found.low_priority, found.low_tenant, found.low_key)
        ORDER BY j.priority DESC, j.tenant_id DESC, j.limit_key DESC LIMIT 1
    ) AS next
), new AS (
    SELECT queue, type, priority, tenant, limit_key FROM found LIMIT 500
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
