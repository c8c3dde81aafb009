-- free: which of these jobs can be written to without waiting: nobody has locked their rows, or there is none any more.
--         Those rows are locked for the caller's transaction. What is missing from the answer is no lost lease: it is asked
--         for again.                                                                                    (X-14, FAULTS 26)
-- takes   ids uuid[]
-- gives   rows (id)
-- index   queue_jobs_pkey; ANY (ARRAY[…]) leaves no join but probes
WITH locked AS MATERIALIZED (
    SELECT id FROM queue_jobs WHERE id = ANY ($1::uuid[]) FOR UPDATE SKIP LOCKED
)
SELECT id FROM locked
UNION ALL
SELECT gone.id FROM unnest($1::uuid[]) AS gone (id) WHERE NOT EXISTS (SELECT 1 FROM queue_jobs AS job WHERE job.id = ANY (ARRAY[gone.id]))
