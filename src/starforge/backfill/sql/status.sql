-- status: one backfill of the caller's tenant, and what decides whether it goes on.       (B-16, B-26, B-36, B-39, B-70)
-- takes   id uuid, stale_s float8 (as claim.sql), most poison rows that are counted
-- gives   one row: its columns, its coordinator, the backfills that it waits for, and how many live workers serve its
--         queue and know its job type; none where the tenant has no such backfill
-- index   backfill_jobs_pkey, workers_live, backfill_poison_pkey; no partition is read
SELECT b.*, sf_now() AS now,
       extract(epoch FROM sf_now() - b.heartbeat_at)::float8 AS heartbeat_age_s,
       extract(epoch FROM sf_now() - b.updated_at)::float8 AS updated_age_s,
       extract(epoch FROM sf_now() - coalesce(b.progress_at, b.started_at))::float8 AS progress_age_s,
       b.worker_id IS NULL OR coalesce(b.heartbeat_at, b.updated_at) < sf_now() - make_interval(secs => $2)
           OR coalesce(w.state IN ('stopped', 'dead'), false) AS free,
       w.host, w.pid, w.version AS worker_version, w.state AS worker_state, w.stop_reason,
       w.state IN ('running', 'stopping') AND w.lease_expires_at > sf_now() AS alive,
       extract(epoch FROM sf_now() - w.heartbeat_at)::float8 AS worker_age_s,
       coalesce((SELECT jsonb_agg(jsonb_build_object('id', u.id, 'asset', u.asset_name, 'state', u.state,
                                                     'completed', u.completed_partitions, 'total', u.total_partitions)
                                  ORDER BY u.created_at, u.id)
                 FROM backfill_jobs AS u WHERE u.id = ANY (b.waits_for) AND u.tenant_id = b.tenant_id), '[]') AS waits,
       (SELECT count(*) FROM workers l WHERE l.state = 'running' AND l.lease_expires_at > sf_now()) AS living,
       (SELECT count(*) FROM workers l WHERE l.state = 'running' AND l.lease_expires_at > sf_now()
          AND 'backfill' = ANY (l.queues)) AS serving,
       (SELECT count(*) FROM workers l WHERE l.state = 'running' AND l.lease_expires_at > sf_now()
          AND b.job_type = ANY (l.types)) AS knowing,
       (SELECT count(*) FROM workers l WHERE l.state = 'running' AND l.lease_expires_at > sf_now()
          AND b.job_type = ANY (l.types) AND 'backfill' = ANY (l.queues)) AS making,
       (SELECT count(*)::int FROM (SELECT FROM backfill_poison AS p WHERE p.backfill_job_id = b.id LIMIT $3::int) AS few) AS poison,
       (SELECT a.code_version FROM backfill_assets AS a WHERE a.name = b.asset_name) AS code_now
FROM backfill_jobs AS b
LEFT JOIN workers AS w ON w.id = b.worker_id
WHERE b.id = $1 AND b.tenant_id = sf_tenant()
