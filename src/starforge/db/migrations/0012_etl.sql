-- etl: what the write path keeps of its own.                                          (D-07, F-20, O-16)
-- phase: expand

ALTER TABLE entity_seen ADD COLUMN previous_at timestamptz;
COMMENT ON COLUMN entity_seen.previous_at IS 'The capture before the last one that was written or refused here.';

-- A profile's unlisted fields are a megabyte: compressing them costs more than half of the first write, and
-- comparing them in a replay means to unpack them.
ALTER TABLE users ALTER COLUMN extra SET STORAGE EXTERNAL;

CREATE TABLE snapshot_entities (
    snapshot_id   uuid NOT NULL REFERENCES hero_snapshots (id) ON DELETE CASCADE,
    entity        text NOT NULL,
    tenant_id     text NOT NULL,
    captured_at   timestamptz NOT NULL,
    status        text NOT NULL
                  CONSTRAINT snapshot_entities_status CHECK (status IN ('written', 'superseded', 'failed')),
    rows_written  integer NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    updated_at    timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (snapshot_id, entity)
);
COMMENT ON TABLE snapshot_entities IS 'How far a large snapshot is: each of its entities has a transaction of its own.';
ALTER TABLE snapshot_entities ENABLE ROW LEVEL SECURITY;
ALTER TABLE snapshot_entities FORCE ROW LEVEL SECURITY;
CREATE POLICY snapshot_entities_owner ON snapshot_entities TO starforge_owner USING (true) WITH CHECK (true);
CREATE POLICY snapshot_entities_operator ON snapshot_entities TO starforge_operator USING (true) WITH CHECK (true);
CREATE POLICY snapshot_entities_engine ON snapshot_entities TO starforge_engine USING (true) WITH CHECK (true);
CREATE POLICY snapshot_entities_app ON snapshot_entities TO starforge_app
    USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON snapshot_entities TO starforge_engine, starforge_app, starforge_operator;
