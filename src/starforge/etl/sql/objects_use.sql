-- objects_use: until the transaction ends no sweep looks for objects that nobody names.
-- takes   nothing
-- gives   one row, once no sweep is in its last step
-- index   none
SELECT pg_advisory_xact_lock_shared(hashtextextended('starforge objects', 0))
