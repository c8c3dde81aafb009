-- changes: what this session has written and not yet reported, by table: for a look before and after in one transaction.
-- takes   nothing
-- gives   rows (name, inserted, updated, deleted)
-- index   none: the session's own counters
SELECT CASE WHEN schemaname = current_schema() THEN relname ELSE schemaname || '.' || relname END AS name,
       n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_del AS deleted
FROM pg_stat_xact_user_tables
WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
