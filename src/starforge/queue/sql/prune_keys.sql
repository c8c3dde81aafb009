-- prune_keys: keys that hold nothing any more are forgotten: expired ones, and those whose job is in no such state.
-- takes   history_days int: how long history keeps a job; most int
-- gives   nothing; the count is in the command's tag
-- index   queue_jobs_pkey, job_history_id of each partition, one probe per key: a key that history may bear out is
--         only asked for once history has dropped the days it was made in
DELETE FROM job_keys
WHERE ctid = ANY (ARRAY (
    SELECT k.ctid FROM job_keys AS k
    WHERE k.expires_at <= sf_now()
       OR ((SELECT true FROM queue_jobs AS j WHERE j.id = k.job_id AND j.status = ANY (k.states)) IS NULL
           AND (NOT k.states && '{completed,cancelled}'
                OR (k.created_at < sf_now() - make_interval(days => $1)
                    AND (SELECT true FROM queue_jobs AS j WHERE j.id = k.job_id) IS NULL
                    AND (SELECT true FROM job_history AS h WHERE h.id = k.job_id LIMIT 1) IS NULL)))
    LIMIT $2
    FOR UPDATE SKIP LOCKED))
