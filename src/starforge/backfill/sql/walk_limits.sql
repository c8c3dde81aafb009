-- walk_limits: how long each statement of the open transaction may take, and wait for a lock.
-- takes   statement_timeout_ms text, lock_timeout_ms text
-- gives   one row of what was set
-- index   none: it reads no table
SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true)
