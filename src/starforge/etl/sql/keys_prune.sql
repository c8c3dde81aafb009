-- keys_prune: idempotency keys of ingestion that hold no more are forgotten.
-- takes   most int
-- gives   nothing; the count is in the command's tag
-- index   ingest_keys_expires
DELETE FROM ingest_keys
WHERE ctid = ANY (ARRAY (
    SELECT ctid FROM ingest_keys WHERE expires_at <= sf_now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
