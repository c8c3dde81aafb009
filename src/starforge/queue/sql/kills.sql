-- kills: which jobs were running when a process died, the newest death first.                        (O-16, O-18, Q-39)
-- takes   since_s float8, n int
-- gives   rows (at, job_id, type, verdict, cause, exit, ran_s, kills, status, payload_bytes, worker_id); kills and status
--         are the job's of now, status `gone` where there is none
-- index   job_kills_created, queue_jobs_pkey, job_history_id
SELECT k.created_at AS at, k.job_id, k.type, k.verdict, k.cause, k.evidence ->> 'exit' AS exit,
       (k.evidence ->> 'ran_s')::float8 AS ran_s, coalesce(job.kills, (k.evidence ->> 'kills')::int, 0) AS kills,
       coalesce(job.status, 'gone') AS status, octet_length(job.payload::text)::bigint AS payload_bytes, k.worker_id
FROM job_kills k
LEFT JOIN LATERAL (
    SELECT j.kills, j.status, j.payload FROM queue_jobs j WHERE j.id = k.job_id
    UNION ALL
    SELECT h.kills, h.status, h.payload FROM job_history h WHERE h.id = k.job_id
    LIMIT 1) AS job ON true
WHERE k.created_at >= sf_now() - make_interval(secs => $1)
ORDER BY k.created_at DESC
LIMIT $2
