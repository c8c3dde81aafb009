-- quarantine: why a snapshot is held and where it was released to; which tables a source fills; how long things are kept.
--                                                                                        (O-25, O-26, O-34, O-44, F-46)
-- phase: expand

ALTER TABLE snapshot_quarantine
    ADD COLUMN cause          text NOT NULL DEFAULT 'hand',
    ADD COLUMN released_to    text CONSTRAINT snapshot_quarantine_lane CHECK (released_to IN ('normal', 'highmem')),
    ADD COLUMN release_reason text;
COMMENT ON COLUMN snapshot_quarantine.cause IS 'hand, size (above the guard), poison (its job killed its workers), malformed (no JSON), catalogue (lacks what it refers to), batch.';
COMMENT ON COLUMN snapshot_quarantine.released_to IS 'highmem: for ordinary workers it is held as before. Null where it was released by hand: to all.';
UPDATE snapshot_quarantine SET cause = CASE WHEN bytes IS NOT NULL THEN 'malformed' ELSE 'size' END
WHERE bytes IS NOT NULL OR reason LIKE '%above the size guard%';
UPDATE snapshot_quarantine SET cause = 'poison' WHERE reason LIKE 'its job has killed % worker processes%';
-- Also for what a snapshot's deletion asks of the rows that refer to it.
CREATE INDEX snapshot_quarantine_snapshot ON snapshot_quarantine (snapshot_id) WHERE snapshot_id IS NOT NULL;

-- What a mapping says of its source, noted by the first worker that writes a snapshot of it: who answers for it, and by
-- which tables and columns the rows of one subject are found without the app that declares the mapping.
CREATE TABLE mapped_sources (
    source         text PRIMARY KEY,
    owner          text,
    subject_table  text NOT NULL,
    subject_key    text NOT NULL,
    tables         jsonb NOT NULL,
    declared_at    timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON COLUMN mapped_sources.tables IS '[{"name", "shared", "refs": [{"column", "to", "id"}]}], in the order in which they are written.';
GRANT SELECT, INSERT, UPDATE, DELETE ON mapped_sources TO starforge_engine, starforge_operator;
GRANT SELECT ON mapped_sources TO starforge_app;

-- How long a tenant keeps what; wins over the settings until it is reset.
CREATE TABLE retention_rules (
    tenant_id   text NOT NULL,
    source      text NOT NULL DEFAULT '',
    kind        text NOT NULL
                CONSTRAINT retention_rules_kind CHECK (kind IN ('snapshots', 'captures', 'quarantine', 'errors')),
    days        integer NOT NULL CONSTRAINT retention_rules_days CHECK (days >= 0),
    owner       text NOT NULL,
    reason      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, source, kind)
);
COMMENT ON COLUMN retention_rules.source IS 'Empty: every source that has no rule of its own.';
COMMENT ON COLUMN retention_rules.days IS '0: for ever.';

-- Objects that no row names any more: deleted from the object store after the commit that made them so, and tried again
-- until that succeeds.
CREATE TABLE dropped_objects (
    raw_key     text PRIMARY KEY,
    tenant_id   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT sf_now()
);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['retention_rules', 'dropped_objects'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_owner USING (true) WITH CHECK (true)', t || '_owner', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_operator USING (true) WITH CHECK (true)', t || '_operator', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine USING (true) WITH CHECK (true)', t || '_engine', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t || '_app', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;

-- Whether a text speaks of a subject: A_1 is not in A_12.
CREATE FUNCTION sf_mentions(said text, subject text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT position(subject IN said) > 0
       AND said ~ ('(^|[^[:alnum:]_])' || regexp_replace(subject, '([^[:alnum:]_[:space:]])', '\\\1', 'g') || '($|[^[:alnum:]_])')
$$;
