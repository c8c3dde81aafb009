-- prune_buckets: buckets that nobody took permits from for long: by now they are full, as new ones are.   (J-34)
-- takes   days int
-- gives   nothing; the count is in the command's tag
-- index   none: there are few
DELETE FROM rate_buckets WHERE refilled_at < sf_now() - make_interval(days => $1)
