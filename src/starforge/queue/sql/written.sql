-- written: which of these completions are in history: their writing was not answered.             (G3, FAULTS 8)
-- takes   ids uuid[], lease epochs bigint[], worker_id uuid
-- gives   rows (id)
-- index   job_history_id, once per job and day; ANY (ARRAY[…]) leaves no join but probes
SELECT done.id
FROM unnest($1::uuid[], $2::bigint[]) AS done (id, lease_epoch)
WHERE EXISTS (SELECT 1 FROM job_history AS h
              WHERE h.id = ANY (ARRAY[done.id])
                AND CASE WHEN h.lease_epoch = done.lease_epoch AND h.worker_id = $3 AND h.status = 'completed' THEN true ELSE false END)
