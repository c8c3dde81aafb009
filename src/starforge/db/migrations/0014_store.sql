-- store: quarantine may name an object of the object store; who names an object is found by its key.      (O-26, F-46)
-- phase: expand

ALTER TABLE snapshot_quarantine ADD COLUMN raw_key text;
COMMENT ON COLUMN snapshot_quarantine.raw_key IS 'The object that holds what is malformed and too large to be kept in bytes.';
ALTER TABLE snapshot_quarantine DROP CONSTRAINT snapshot_quarantine_holds_something;
ALTER TABLE snapshot_quarantine ADD CONSTRAINT snapshot_quarantine_holds_something
    CHECK (snapshot_id IS NOT NULL OR bytes IS NOT NULL OR raw_key IS NOT NULL);
CREATE UNIQUE INDEX snapshot_quarantine_large ON snapshot_quarantine (tenant_id, source, sha256) WHERE raw_key IS NOT NULL;
CREATE INDEX snapshot_quarantine_raw_key ON snapshot_quarantine (raw_key) WHERE raw_key IS NOT NULL;
CREATE INDEX hero_snapshots_raw_key ON hero_snapshots (raw_key) WHERE raw_key IS NOT NULL;

ALTER TABLE hero_snapshots ADD COLUMN guard smallint;
COMMENT ON COLUMN hero_snapshots.guard IS 'The version of the guard whose rules these bytes have passed as they are; null: a worker asks it again.';
