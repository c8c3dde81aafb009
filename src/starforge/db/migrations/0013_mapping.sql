-- mapping: what catalogues lack, what waits for it, which fields a source sends, and how strictly it is read.
-- phase: expand

-- One row per entry that was made because a document refers to it; shared by all tenants, as catalogues are. (F-41, F-43)
CREATE TABLE catalogue_placeholders (
    catalogue      text NOT NULL,
    key_column     text NOT NULL,
    id             text NOT NULL,
    source         text NOT NULL,
    snapshot_id    uuid,
    owner          text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT sf_now(),
    resolved_at    timestamptz,
    PRIMARY KEY (catalogue, id)
);
COMMENT ON COLUMN catalogue_placeholders.snapshot_id IS 'The first snapshot that referred to it; it may be forgotten by now.';
COMMENT ON COLUMN catalogue_placeholders.resolved_at IS 'When the catalogue was seen to know the entry; null while it does not.';
CREATE INDEX catalogue_placeholders_open ON catalogue_placeholders (catalogue, created_at) WHERE resolved_at IS NULL;

-- Why a snapshot is held that waits for entries of a catalogue; open as long as its row of snapshot_quarantine is. (F-42)
CREATE TABLE snapshot_holds (
    quarantine_id  uuid PRIMARY KEY REFERENCES snapshot_quarantine (id) ON DELETE CASCADE,
    tenant_id      text NOT NULL,
    snapshot_id    uuid NOT NULL,
    job_id         uuid,
    source         text NOT NULL,
    catalogue      text NOT NULL,
    key_column     text NOT NULL,
    missing        text[] NOT NULL,
    owner          text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT sf_now()
);
CREATE INDEX snapshot_holds_snapshot ON snapshot_holds (snapshot_id);
CREATE INDEX snapshot_holds_catalogue ON snapshot_holds (catalogue, created_at);

-- How a source's unknown fields are treated, against its mapping's own word, until it expires; '' is every tenant. (F-36)
CREATE TABLE source_modes (
    tenant_id      text NOT NULL DEFAULT '',
    source         text NOT NULL,
    mode           text NOT NULL CONSTRAINT source_modes_mode CHECK (mode IN ('strict', 'tolerant')),
    owner          text NOT NULL,
    reason         text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT sf_now(),
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, source)
);

-- One row per change of what a source sends; the source's shape is the paths of all its rows together.  (F-34, F-66)
CREATE TABLE source_shapes (
    tenant_id      text NOT NULL,
    source         text NOT NULL,
    fingerprint    text NOT NULL,
    new_paths      text[] NOT NULL,
    snapshot_id    uuid,
    snapshots      bigint NOT NULL DEFAULT 1,
    first_seen     timestamptz NOT NULL DEFAULT sf_now(),
    last_seen      timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, source, fingerprint)
);
COMMENT ON COLUMN source_shapes.new_paths IS 'Paths, each with the kind of value there, that no earlier document had: "Troops.*.Level integer".';
COMMENT ON COLUMN source_shapes.snapshots IS 'Documents that were of this shape while it was the newest, counted now and then.';
CREATE INDEX source_shapes_first_seen ON source_shapes (source, first_seen DESC);

CREATE INDEX etl_errors_fingerprint ON etl_errors (fingerprint, created_at DESC) WHERE fingerprint IS NOT NULL;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['snapshot_holds', 'source_modes', 'source_shapes'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_owner USING (true) WITH CHECK (true)', t || '_owner', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_operator USING (true) WITH CHECK (true)', t || '_operator', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine USING (true) WITH CHECK (true)', t || '_engine', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['snapshot_holds', 'source_shapes'] LOOP
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t || '_app', t);
    END LOOP;
    -- Row '' is every tenant's; the operation decides who may write it.
    CREATE POLICY source_modes_app ON source_modes TO starforge_app
        USING (tenant_id IN ('', sf_tenant())) WITH CHECK (tenant_id IN ('', sf_tenant()));
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON catalogue_placeholders TO starforge_engine, starforge_app, starforge_operator;
