-- now: what the database's clock shows.                                                           (FAULTS 23)
-- takes   nothing
-- gives   one row (seconds since 1970 float8)
-- index   none
SELECT extract(epoch FROM sf_now())::float8
