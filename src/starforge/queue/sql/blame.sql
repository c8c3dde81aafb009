-- blame: the jobs of a worker that was just declared dead are pending again, and those that were running in the
--        process that died are judged. Guilty: it ran alone, so it killed. Suspect: one of several did; each is run alone
--        now. Unknown: nobody can say which ran. No attempt is burnt, and what had not started is not even marked.
--                                                                            (O-01, O-16, O-18, O-29, Q-39, G2, G6)
-- takes   worker_id uuid, guilty uuid[], suspects uuid[], unknown boolean, kills_max int, delays_s float8[] by the
--         number of kills, cause text, words text, evidence jsonb, ran_s jsonb by job id
-- gives   one row (jobs, guilty, suspects, quarantined, locked, asked uuid[]): what was reclaimed, the kills noted, the jobs
--         held back, how many rows somebody else had locked; they are the worker's still; and whose cancellation was
--         asked for
-- index   none, as reclaim; once per death
WITH held AS MATERIALIZED (
    SELECT j.ctid AS place FROM queue_jobs j WHERE j.status = 'running' AND j.worker_id = $1
), back AS (
    UPDATE queue_jobs AS job
    SET status = CASE WHEN job.id = ANY ($2::uuid[]) AND job.kills + 1 >= $5::int AND job.cancel_reason IS NULL
                      THEN 'quarantined' ELSE 'pending' END,
        kills = job.kills + (job.id = ANY ($2))::int,
        suspect = job.suspect OR job.id = ANY ($3::uuid[]),
        reclaims = least(job.reclaims + $4::boolean::int, 100),
        run_after = CASE WHEN job.id = ANY ($2)
                         THEN greatest(job.run_after, sf_now() + make_interval(secs => ($6::float8[])[job.kills + 1]))
                         ELSE job.run_after END,
        last_error = CASE WHEN job.id = ANY ($2)
                          THEN $9::jsonb || jsonb_build_object('kills', job.kills + 1, 'reason', format(
                              'it killed %s of at most %s worker processes, the last of which %s', job.kills + 1, $5, $8::text))
                          ELSE job.last_error END,
        worker_id = NULL, lease_epoch = job.lease_epoch + 1, updated_at = sf_now()
    WHERE job.ctid = ANY (ARRAY (
        SELECT j.ctid FROM queue_jobs j
        WHERE j.ctid = ANY (ARRAY (SELECT place FROM held)) AND j.status = 'running' AND j.worker_id = $1
        FOR UPDATE OF j SKIP LOCKED))
    RETURNING job.id, job.tenant_id, job.queue, job.type, job.status, job.kills, job.lease_epoch - 1 AS lease_epoch,
              job.cancel_reason IS NOT NULL AS asked
), noted AS (
    INSERT INTO job_kills (job_id, tenant_id, type, worker_id, lease_epoch, verdict, cause, evidence)
    SELECT id, tenant_id, type, $1, lease_epoch, CASE WHEN id = ANY ($2) THEN 'guilty' ELSE 'suspect' END, $7,
           $9 || jsonb_build_object('exit', $8, 'kills', kills, 'ran_s', $10::jsonb -> id::text,
                                    'quarantined', status = 'quarantined')
    FROM back WHERE id = ANY ($2 || $3)
    RETURNING verdict
), counted AS (
    INSERT INTO job_minutes (minute, queue, type, worker_id, retried, quarantined)
    SELECT date_trunc('minute', sf_now()), queue, type, $1, count(*) FILTER (WHERE status = 'pending'),
           count(*) FILTER (WHERE status = 'quarantined')
    FROM back WHERE id = ANY ($2) GROUP BY queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE
    SET retried = job_minutes.retried + excluded.retried, quarantined = job_minutes.quarantined + excluded.quarantined
), learned AS (
    INSERT INTO job_types (name, queue, killed_at)
    SELECT DISTINCT ON (type) type, queue, sf_now() FROM back WHERE id = ANY ($2)
    ON CONFLICT (name) DO UPDATE SET killed_at = excluded.killed_at
)
SELECT (SELECT count(*) FROM back) AS jobs,
       (SELECT count(*) FROM noted WHERE verdict = 'guilty') AS guilty,
       (SELECT count(*) FROM noted WHERE verdict = 'suspect') AS suspects,
       (SELECT count(*) FROM back WHERE status = 'quarantined') AS quarantined,
       (SELECT count(*) FROM held) - (SELECT count(*) FROM back) AS locked,
       ARRAY (SELECT id FROM back WHERE asked) AS asked
