-- prune_plans: plans that can be applied no more are kept for a while, for whoever looks what was planned.
-- takes   days int
-- gives   nothing; the count is in the command's tag
-- index   none: there are few
DELETE FROM operation_plans WHERE expires_at < sf_now() - make_interval(days => $1)
