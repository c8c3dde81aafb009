-- now: the moment that a page speaks of, on the database's clock.
-- takes   nothing
-- gives   one timestamptz
-- index   none
SELECT sf_now()
