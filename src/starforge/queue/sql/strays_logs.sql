-- strays_logs: old log lines that fell into the default partition, which is never dropped.
-- takes   kept_days int, most int
-- gives   nothing; the count is in the command's tag
-- index   none: the default partition holds what found no day; the time keeps the younger partitions out of it
DELETE FROM log_lines
WHERE at < date_trunc('day', sf_now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - make_interval(days => $1)
  AND tableoid = 'log_lines_default'::regclass
  AND ctid = ANY (ARRAY (
    SELECT ctid FROM log_lines
    WHERE at < date_trunc('day', sf_now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - make_interval(days => $1)
      AND tableoid = 'log_lines_default'::regclass
    LIMIT $2))
