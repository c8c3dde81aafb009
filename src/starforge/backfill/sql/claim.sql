-- claim: a coordinator takes the next backfill that nobody looks after: resumed ones first, of equal priority.  (B-23, B-37)
-- takes   worker_id uuid, stale_s double precision, not these uuid[]
-- gives   one row (id, was: the state before, epoch, heartbeat_at), or none. A pending or resumed one needs its upstream
--         completed, a pending one also a live worker that knows its type; one that ended or is paused is taken while something of it is not counted.
--         What is this worker's by its row and not in its hands is what it lost, or took and was not told; what is
--         resumed is nobody's, whoever may still count what ended before, and its planned resume is over. Who writes rows that refer to it is not in the way
-- index   backfill_jobs_open, backfill_jobs_pkey, workers_live: paused ones with nothing to be counted are not looked at
WITH next AS (
    SELECT d.id, d.state FROM backfill_jobs AS d
    WHERE d.id = ANY (ARRAY (SELECT id FROM backfill_jobs WHERE closed_at IS NULL AND state <> 'paused')
                      || ARRAY (SELECT DISTINCT backfill_job_id FROM backfill_ended))
      AND d.closed_at IS NULL AND d.id <> ALL ($3::uuid[])
      AND (d.worker_id IS NULL OR d.worker_id = $1 OR d.state = 'resuming'
           OR coalesce(d.heartbeat_at, d.updated_at) < sf_now() - $2 * interval '1 second'
           OR EXISTS (SELECT FROM workers AS w WHERE w.id = d.worker_id AND w.state IN ('stopped', 'dead')))
      AND CASE
          WHEN d.state IN ('pending', 'resuming') THEN
              NOT EXISTS (SELECT FROM backfill_jobs AS u WHERE u.id = ANY (d.waits_for) AND u.state <> 'completed')
              AND (d.state = 'resuming' OR EXISTS (SELECT FROM workers AS w WHERE w.state = 'running' AND w.lease_expires_at > sf_now()
                                                     AND d.job_type = ANY (w.types)))
          WHEN d.state = 'paused' THEN EXISTS (SELECT FROM backfill_ended AS e WHERE e.backfill_job_id = d.id)
          ELSE true END
    ORDER BY d.priority DESC, d.state = 'pending', d.created_at
    LIMIT 1 FOR NO KEY UPDATE OF d SKIP LOCKED
)
UPDATE backfill_jobs AS b
SET state = CASE WHEN next.state IN ('pending', 'resuming') THEN 'running' ELSE next.state END,
    resume_at = CASE WHEN next.state IN ('pending', 'resuming') THEN NULL ELSE b.resume_at END,
    worker_id = $1, lease_epoch = b.lease_epoch + 1, heartbeat_at = sf_now(), updated_at = sf_now(),
    started_at = CASE WHEN next.state IN ('pending', 'resuming') THEN coalesce(b.started_at, sf_now()) ELSE b.started_at END,
    progress_at = CASE WHEN next.state IN ('pending', 'resuming') THEN sf_now() ELSE b.progress_at END
FROM next WHERE b.id = next.id
RETURNING b.id, next.state AS was, b.lease_epoch AS epoch, b.heartbeat_at
