-- kill: a job that ran in a process of its own has killed it: it waits for its next run, or is held back for good.
--                                                                                        (O-01, O-29, Q-39, G3, G6)
-- takes   job_id uuid, lease_epoch bigint, worker_id uuid, kills_max int, delays_s float8[] by the number of kills,
--         cause text, words text, evidence jsonb
-- gives   one row (id, asked: somebody asked for its cancellation), or none when the lease was lost
-- index   queue_jobs_pkey, job_minutes_pkey
WITH killed AS (
    UPDATE queue_jobs AS job
    SET status = CASE WHEN job.kills + 1 >= $4::int AND job.cancel_reason IS NULL THEN 'quarantined' ELSE 'pending' END,
        kills = job.kills + 1, suspect = false, worker_id = NULL, updated_at = sf_now(),
        run_after = sf_now() + make_interval(secs => coalesce(($5::float8[])[job.kills + 1], 0)),
        last_error = $8::jsonb || jsonb_build_object('kills', job.kills + 1, 'reason', format(
            'it killed %s of at most %s worker processes, the last of which %s', job.kills + 1, $4, $7::text))
    WHERE job.id = $1 AND job.status = 'running' AND job.worker_id = $3 AND job.lease_epoch = $2
    RETURNING job.id, job.tenant_id, job.queue, job.type, job.kills, job.status = 'quarantined' AS quarantined,
              job.cancel_reason IS NOT NULL AS asked
), noted AS (
    INSERT INTO job_kills (job_id, tenant_id, type, worker_id, lease_epoch, verdict, cause, evidence)
    SELECT id, tenant_id, type, $3, $2, 'guilty', $6,
           $8 || jsonb_build_object('exit', $7, 'kills', kills, 'quarantined', quarantined)
    FROM killed
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, retried, quarantined)
    SELECT date_trunc('minute', sf_now()), queue, type, $3, (NOT quarantined)::int, quarantined::int FROM killed
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE
    SET retried = job_minutes.retried + excluded.retried, quarantined = job_minutes.quarantined + excluded.quarantined
), learned AS (
    INSERT INTO job_types (name, queue, killed_at) SELECT type, queue, sf_now() FROM killed
    ON CONFLICT (name) DO UPDATE SET killed_at = excluded.killed_at
)
SELECT id, asked FROM killed
