-- prune_overrides: settings of run time that expired long ago.                                       (X-11)
-- takes   days int
-- gives   nothing; the count is in the command's tag
-- index   none: there are few
DELETE FROM setting_overrides WHERE expires_at < sf_now() - make_interval(days => $1)
