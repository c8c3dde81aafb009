-- list: backfills of the caller's tenant that fit.                                          (B-29, B-31, B-32, B-70)
-- takes   state text, asset text, older_s float8, health text, each or null; stale_s, resuming_s, quiet_s float8,
--         quiet_times float8, sort text (newest, eta or heartbeat), most int, created_at timestamptz and id uuid of the one behind
--         which, of the newest, the list goes on (null: from the newest on)
-- gives   a row for each: what it is, how far it is, how it is doing
-- index   backfill_jobs_tenant: of the newest no more is read than is listed; no partition is read
WITH fitting AS (
    SELECT b.*, extract(epoch FROM sf_now() - coalesce(b.heartbeat_at, b.updated_at))::float8 AS silent_s,
           extract(epoch FROM sf_now() - coalesce(b.progress_at, b.started_at))::float8 AS quiet_s
    FROM backfill_jobs AS b
    WHERE b.tenant_id = sf_tenant() AND ($1::text IS NULL OR b.state = $1) AND ($2::text IS NULL OR b.asset_name = $2)
      AND ($3::float8 IS NULL OR b.created_at <= sf_now() - make_interval(secs => $3))
      AND (b.created_at, b.id) < (CASE WHEN $11::timestamptz IS NULL THEN 'infinity' ELSE $11 END,
                                    CASE WHEN $12::uuid IS NULL THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE $12 END)
), judged AS (
    SELECT *, CASE
        WHEN closed_at IS NULL AND state NOT IN ('pending', 'paused')
             AND silent_s > CASE state WHEN 'resuming' THEN $6::float8 ELSE $5::float8 END
             AND NOT (state = 'resuming' AND EXISTS (SELECT FROM backfill_jobs AS u
                                                     WHERE u.id = ANY (fitting.waits_for) AND u.state <> 'completed'))
             THEN 'stale'
        WHEN state = 'running' AND avg_partition_duration_ms IS NOT NULL
             AND quiet_s > greatest($7::float8, $8::float8 * avg_partition_duration_ms / 1000) THEN 'no-progress'
        ELSE 'ok' END AS health
    FROM fitting
)
SELECT j.id, j.tenant_id AS tenant, j.asset_name AS asset, j.state, j.health, j.priority,
       j.total_partitions AS total, j.completed_partitions AS completed, j.failed_partitions AS failed,
       j.cancelled_partitions AS cancelled, j.checkpoint_partition_key AS checkpoint,
       CASE WHEN j.state = 'running' THEN j.eta_low_at END AS eta_low_at,
       CASE WHEN j.state = 'running' THEN j.estimated_completion_at END AS eta_at,
       CASE WHEN j.state = 'running' THEN j.eta_high_at END AS eta_high_at,
       CASE WHEN j.state = 'running' AND j.eta_low_at IS NOT NULL
            THEN greatest(extract(epoch FROM j.eta_low_at - sf_now()), 0)::float8 END AS eta_low_s,
       CASE WHEN j.state = 'running' AND j.eta_high_at IS NOT NULL
            THEN greatest(extract(epoch FROM j.eta_high_at - sf_now()), 0)::float8 END AS eta_high_s,
       j.avg_partition_duration_ms AS average_ms, j.sla_at, j.heartbeat_at,
       CASE WHEN j.heartbeat_at IS NOT NULL AND j.closed_at IS NULL THEN j.silent_s END AS heartbeat_age_s,
       j.pace, j.pace_reason, j.created_by, j.state_by, j.state_reason, j.version, j.changed, j.created_at, j.completed_at, j.closed_at,
       w.host || ':' || w.pid AS worker
FROM judged AS j
LEFT JOIN workers AS w ON w.id = j.worker_id
WHERE $4::text IS NULL OR j.health = $4
ORDER BY CASE $9::text WHEN 'eta' THEN j.estimated_completion_at WHEN 'heartbeat' THEN j.heartbeat_at END, j.created_at DESC, j.id DESC
LIMIT $10::int
