-- prune_gates: gates that expired long ago; they were kept to tell who had closed them, and why.     (X-11)
-- takes   days int
-- gives   nothing; the count is in the command's tag
-- index   none: there are few
DELETE FROM gates WHERE expires_at < sf_now() - make_interval(days => $1)
