-- objects_sweep: until the transaction ends nobody gives an object its row.
-- takes   nothing
-- gives   one row, once nobody is about to
-- index   none
SELECT pg_advisory_xact_lock(hashtextextended('starforge objects', 0))
