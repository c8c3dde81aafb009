-- lock_key: whoever else uses this idempotency key now waits until this transaction has ended.   (X-06)
-- takes   key text: the tenant and the key
-- gives   nothing; the lock ends with the transaction, also behind a pooler
-- index   none
SELECT pg_advisory_xact_lock(hashtextextended($1, 6))
