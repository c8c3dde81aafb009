-- progress: what running jobs say of how far they are.
-- takes   job ids uuid[], lease epochs bigint[], done float8[], totals float8[] with nulls, messages text[] with
--         nulls, worker_id uuid
-- gives   nothing; what a job says under a lost lease is dropped
-- index   queue_jobs_pkey, job_progress_pkey; in the order of the ids, so that no two writers wait in a circle; ANY
--         (ARRAY[…]) leaves no join but probes
INSERT INTO job_progress (job_id, tenant_id, lease_epoch, done, total, message, updated_at)
SELECT job.id, job.tenant_id, job.lease_epoch, said.done, said.total, said.message, sf_now()
FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[]), (SELECT $3::float8[]), (SELECT $4::float8[]), (SELECT $5::text[]))
    AS said (job_id, lease_epoch, done, total, message)
JOIN queue_jobs AS job ON job.id = ANY (ARRAY[said.job_id])
WHERE CASE WHEN job.status = 'running' AND job.worker_id = $6 AND job.lease_epoch = said.lease_epoch THEN true ELSE false END
ORDER BY job.id
ON CONFLICT (job_id) DO UPDATE
SET lease_epoch = excluded.lease_epoch, done = excluded.done, total = excluded.total, message = excluded.message,
    updated_at = excluded.updated_at
WHERE job_progress.lease_epoch <= excluded.lease_epoch
