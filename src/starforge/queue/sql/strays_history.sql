-- strays_history: old finished jobs that fell into the default partition, which is never dropped.
-- takes   kept_days int, most int
-- gives   nothing; the count is in the command's tag
-- index   job_history_completed of the default partition; the time keeps the younger partitions out of it
DELETE FROM job_history
WHERE completed_at < date_trunc('day', sf_now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - make_interval(days => $1)
  AND tableoid = 'job_history_default'::regclass
  AND ctid = ANY (ARRAY (
    SELECT ctid FROM job_history
    WHERE completed_at < date_trunc('day', sf_now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - make_interval(days => $1)
      AND tableoid = 'job_history_default'::regclass
    LIMIT $2))
