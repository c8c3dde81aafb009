-- complete: running jobs leave for history and their leases end; they are counted by minute.  (X-03, D-12, G3, Q-13)
-- takes   ids uuid[], lease epochs bigint[], durations real[] in ms, results text[] of JSON with nulls, worker_id uuid
-- gives   the ids that were accepted; those whose lease was lost are missing
-- index   queue_jobs_pkey; sub-selects and CASE hide from the planner how many jobs run, which its statistics misjudge,
--         and ANY (ARRAY[…]) leaves it no join but the one probe per job. job_minutes_pkey: a worker has rows of its own,
--         taken in one order, so that no two completions wait for each other in a circle
WITH gone AS (
    DELETE FROM queue_jobs AS job
    USING unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::real[]), (SELECT $4::text[]))
        AS done (id, lease_epoch, ran_ms, result)
    WHERE job.id = ANY (ARRAY[done.id])
      AND CASE WHEN job.status = 'running' AND job.worker_id = $5
               AND job.lease_epoch = done.lease_epoch THEN true ELSE false END
    RETURNING job.*, done.ran_ms, done.result
), kept AS (
    INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts, run_after,
                             last_error, worker_id, lease_epoch, created_at, started_at, completed_at, ran_ms, tags, trace, kills,
                             result)
    SELECT id, tenant_id, queue, type, payload, priority, 'completed', attempts, max_attempts, run_after,
           last_error, worker_id, lease_epoch, created_at, updated_at, sf_now(), ran_ms, tags, trace, kills, result::jsonb
    FROM gone
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, completed, ran_ms, ran_ms_max, waited_ms)
    SELECT date_trunc('minute', sf_now()), queue, type, $5, count(*), sum(ran_ms), max(ran_ms),
           1000 * sum(greatest(0, date_part('epoch', updated_at) - date_part('epoch', run_after)))
    FROM gone GROUP BY queue, type ORDER BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE
    SET completed = job_minutes.completed + excluded.completed, ran_ms = job_minutes.ran_ms + excluded.ran_ms,
        ran_ms_max = greatest(job_minutes.ran_ms_max, excluded.ran_ms_max),
        waited_ms = job_minutes.waited_ms + excluded.waited_ms
)
SELECT id FROM gone
