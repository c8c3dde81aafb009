-- return: a worker gives back the jobs it had not finished; no attempt is burnt.                    (G2)
--         One that is run alone comes back a little later, so that a worker without room for it does not get it at once
-- takes   ids uuid[], lease epochs bigint[], worker_id uuid
-- gives   rows (id, asked: somebody asked for its cancellation) of those that were accepted
-- index   queue_jobs_pkey; sub-selects and CASE hide from the planner how many jobs run, which its statistics misjudge,
--         and ANY (ARRAY[…]) leaves it no join but the one probe per job
UPDATE queue_jobs AS job
SET status = 'pending', worker_id = NULL, lease_epoch = job.lease_epoch + 1, updated_at = sf_now(),
    run_after = CASE WHEN job.suspect OR job.kills > 0 OR job.reclaims >= 2
                     THEN greatest(job.run_after, sf_now() + interval '5 s') ELSE job.run_after END
FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS back (id, lease_epoch)
WHERE job.id = ANY (ARRAY[back.id])
  AND CASE WHEN job.status = 'running' AND job.worker_id = $3
           AND job.lease_epoch = back.lease_epoch THEN true ELSE false END
RETURNING job.id, job.cancel_reason IS NOT NULL AS asked
