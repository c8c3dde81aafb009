-- claim: up to n ready jobs of the given lanes, in the lanes' order, become this worker's.   (G3, O-16)
-- takes   queues text[], types text[], priorities int[], tenants text[], limit keys text[], since float8[], until float8[]
--         (seconds since 1970, both ends included), most int[] (one lane each), n int, worker_id uuid, closed tags text[]
--         or null for none, first attempts only boolean[] (one lane each)
-- gives   rows of leased jobs; none where the worker's own lease has ended. The payload comes as text and the time as
--         seconds: Postgres holds numbers and times that Python cannot, and one must not spoil the others' claim.
--         `deaths`: of a job that is to run alone, how many workers it killed; null for the others
-- index   queue_jobs_lane, one scan per lane, from the watermark on: what is dead before it costs nothing. What was
--         locked is updated by its place, without a join; a row that changed between snapshot and lock has another
--         place, is not seen, and is left for the next claim
UPDATE queue_jobs AS job
SET status = 'running', worker_id = $10, lease_epoch = job.lease_epoch + 1, updated_at = sf_now()
WHERE job.ctid = ANY (ARRAY (
    SELECT ready.place
    FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::float8[], $7::float8[], $8::int[], $12::bool[])
        AS lane (queue, type, priority, tenant, limit_key, since, until, most, first_only)
    CROSS JOIN LATERAL (
        SELECT j.ctid AS place FROM queue_jobs j
        WHERE j.queue = lane.queue AND j.type = lane.type AND j.priority = lane.priority AND j.tenant_id = lane.tenant
          AND j.limit_key = lane.limit_key AND j.status = 'pending'
          AND j.run_after >= to_timestamp(lane.since) AND j.run_after <= least(sf_now(), to_timestamp(lane.until))
          AND (NOT lane.first_only OR j.attempts = 0)
          AND ($11::text[] IS NULL OR j.tags IS NULL OR NOT j.tags && $11)
        ORDER BY j.run_after
        LIMIT lane.most
        FOR UPDATE SKIP LOCKED
    ) AS ready
    WHERE EXISTS (SELECT 1 FROM workers w WHERE w.id = $10 AND w.state = 'running' AND w.lease_expires_at > sf_now())
    LIMIT $9
))
RETURNING job.id, job.tenant_id, job.queue, job.type, job.payload::text, job.attempts, job.max_attempts,
          job.lease_epoch, job.priority, date_part('epoch', job.run_after) AS due_s, job.limit_key,
          job.tags, job.timeout_s, job.trace,
          CASE WHEN job.kills > 0 OR job.reclaims >= 2 OR job.suspect THEN job.kills END AS deaths
