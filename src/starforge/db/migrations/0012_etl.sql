-- etl: what the write path keeps of its own.                                          (D-07, F-20, O-16)
-- phase: expand

ALTER TABLE entity_seen ADD COLUMN previous_at timestamptz;
COMMENT ON COLUMN entity_seen.previous_at IS 'The capture before the last one that was written or refused here.';

-- A profile's unlisted fields are a megabyte: compressing them costs more than half of the first write, and
-- comparing them in a replay means to unpack them.
ALTER TABLE users ALTER COLUMN extra SET STORAGE EXTERNAL;
