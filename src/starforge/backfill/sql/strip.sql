-- strip: the partitions of a backfill by their place, in so many parts of about equal size; as they are counted.
-- takes   backfill_job_id uuid, total integer, parts integer
-- gives   rows (part from 0, completed, failed, cancelled); what ended and waits to be counted is open here
-- index   backfill_partitions_pkey, backfill_ended_job; reads all of them: where the stored strip does not fit
SELECT (place * $3 / $2)::int AS part, count(*) FILTER (WHERE state = 'completed') AS completed,
       count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'cancelled') AS cancelled
FROM (SELECT row_number() OVER (ORDER BY p.ordinal) - 1 AS place,
             CASE WHEN e.ordinal IS NULL THEN p.state ELSE 'running' END AS state
      FROM backfill_partitions AS p
      LEFT JOIN (SELECT DISTINCT ordinal FROM backfill_ended WHERE backfill_job_id = $1 AND outcome <> 'retried') AS e
             ON e.ordinal = p.ordinal
      WHERE p.backfill_job_id = $1) AS placed
GROUP BY 1 ORDER BY 1
