-- minutes_compact: the workers' rows of a minute become one for each queue and type, with the same sums.        (Q-13)
-- takes   older_s float8, most int
-- gives   one row (compacted): how many rows there were
-- index   job_minutes_pkey; minutes that old are written by nobody else, and what comes late all the same is added
--         by the next run
WITH gone AS (
    DELETE FROM job_minutes
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM job_minutes
        WHERE minute < date_trunc('minute', sf_now() - make_interval(secs => $1))
          AND worker_id <> '00000000-0000-0000-0000-000000000000'
        ORDER BY minute
        LIMIT $2
        FOR UPDATE SKIP LOCKED))
    RETURNING *
), kept AS (
    INSERT INTO job_minutes AS m (minute, queue, type, worker_id, completed, failed, retried, quarantined, cancelled,
                                  ran_ms, ran_ms_max, waited_ms)
    SELECT minute, queue, type, '00000000-0000-0000-0000-000000000000', sum(completed), sum(failed), sum(retried),
           sum(quarantined), sum(cancelled), sum(ran_ms), max(ran_ms_max), sum(waited_ms)
    FROM gone
    GROUP BY minute, queue, type
    ORDER BY minute, queue, type
    ON CONFLICT (minute, queue, type, worker_id) DO UPDATE
    SET completed = m.completed + excluded.completed, failed = m.failed + excluded.failed,
        retried = m.retried + excluded.retried, quarantined = m.quarantined + excluded.quarantined,
        cancelled = m.cancelled + excluded.cancelled, ran_ms = m.ran_ms + excluded.ran_ms,
        ran_ms_max = greatest(m.ran_ms_max, excluded.ran_ms_max), waited_ms = m.waited_ms + excluded.waited_ms
)
SELECT count(*) AS compacted FROM gone
