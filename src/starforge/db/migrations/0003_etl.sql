-- etl: snapshots as they came, their captures, what went wrong and what is held back.    (F-19, F-20, O-26)
-- phase: expand

CREATE TABLE hero_snapshots (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id     text NOT NULL,
    source        text NOT NULL,
    subject       text,
    raw           json,
    raw_key       text,
    size_bytes    bigint NOT NULL,
    sha256        bytea NOT NULL,
    status        text NOT NULL DEFAULT 'received'
                  CONSTRAINT hero_snapshots_status
                  CHECK (status IN ('received', 'processed', 'superseded', 'failed', 'quarantined')),
    processing    boolean NOT NULL DEFAULT false,
    error_count   integer DEFAULT 0,
    last_error    jsonb,
    rows_written  integer,
    captured_at   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    updated_at    timestamptz NOT NULL DEFAULT sf_now(),
    processed_at  timestamptz,
    CONSTRAINT hero_snapshots_content UNIQUE (tenant_id, source, sha256),
    CONSTRAINT hero_snapshots_raw CHECK (raw IS NOT NULL OR raw_key IS NOT NULL)
);
-- Compressing 2.9 MB costs five times the write and three times the read; twice the disk is cheaper.
ALTER TABLE hero_snapshots ALTER COLUMN raw SET STORAGE EXTERNAL;
COMMENT ON COLUMN hero_snapshots.raw IS 'The bytes as they came: json keeps them, jsonb would not.';
CREATE INDEX hero_snapshots_size ON hero_snapshots (size_bytes DESC);
CREATE INDEX hero_snapshots_created ON hero_snapshots (created_at DESC);

CREATE TABLE snapshot_captures (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    text NOT NULL,
    snapshot_id  uuid NOT NULL REFERENCES hero_snapshots (id) ON DELETE CASCADE,
    source       text NOT NULL,
    subject      text,
    captured_at  timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    CONSTRAINT snapshot_captures_once UNIQUE (snapshot_id, captured_at)
);
COMMENT ON TABLE snapshot_captures IS 'One row per offer whose content was not the latest of its subject: A, B, A is three captures of two snapshots.';
CREATE INDEX snapshot_captures_latest ON snapshot_captures (tenant_id, source, subject, captured_at DESC, created_at DESC);

CREATE TABLE entity_seen (
    tenant_id    text NOT NULL,
    source       text NOT NULL,
    subject      text NOT NULL,
    entity       text NOT NULL,
    captured_at  timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, source, subject, entity)
);
COMMENT ON TABLE entity_seen IS 'Watermark per subject and entity: an older snapshot writes nothing there, deletions included.';

CREATE TABLE etl_errors (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    text NOT NULL,
    snapshot_id  uuid,
    job_id       uuid,
    source       text,
    error_type   text NOT NULL
                 CONSTRAINT etl_errors_type CHECK (error_type IN (
                     'PARSE_ERROR', 'MAPPING_ERROR', 'DB_ERROR', 'FK_VIOLATION', 'OOM', 'TIMEOUT', 'UNKNOWN')),
    message      text NOT NULL,
    details      jsonb NOT NULL DEFAULT '{}',
    fingerprint  text,
    created_at   timestamptz NOT NULL DEFAULT sf_now()
);
CREATE INDEX etl_errors_created ON etl_errors (created_at DESC);
CREATE INDEX etl_errors_by_type ON etl_errors (error_type, created_at DESC);
CREATE INDEX etl_errors_snapshot ON etl_errors (snapshot_id) WHERE snapshot_id IS NOT NULL;

CREATE TABLE snapshot_quarantine (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    text NOT NULL,
    snapshot_id  uuid REFERENCES hero_snapshots (id),
    source       text,
    name         text,
    bytes        bytea,
    size_bytes   bigint,
    sha256       bytea,
    reason       text NOT NULL,
    details      jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    created_by   text NOT NULL DEFAULT current_user,
    released_at  timestamptz,
    released_by  text,
    CONSTRAINT snapshot_quarantine_holds_something CHECK (snapshot_id IS NOT NULL OR bytes IS NOT NULL)
);
ALTER TABLE snapshot_quarantine ALTER COLUMN bytes SET STORAGE EXTERNAL;
COMMENT ON COLUMN snapshot_quarantine.bytes IS 'What no JSON column can hold: malformed, raw NUL, not UTF-8. The same bytes of a source are kept once.';
CREATE INDEX snapshot_quarantine_open ON snapshot_quarantine (snapshot_id) WHERE released_at IS NULL;
CREATE INDEX snapshot_quarantine_created ON snapshot_quarantine (created_at DESC);
CREATE UNIQUE INDEX snapshot_quarantine_content ON snapshot_quarantine (tenant_id, source, sha256) WHERE bytes IS NOT NULL;

-- A row made by hand names no tenant: it takes that of its snapshot, else the setting.
CREATE FUNCTION sf_snapshot_tenant() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT tenant_id INTO NEW.tenant_id FROM hero_snapshots WHERE id = NEW.snapshot_id;
    NEW.tenant_id := coalesce(NEW.tenant_id, sf_tenant());
    RETURN NEW;
END $$;
CREATE TRIGGER etl_errors_tenant BEFORE INSERT ON etl_errors
    FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION sf_snapshot_tenant();
CREATE TRIGGER snapshot_quarantine_tenant BEFORE INSERT ON snapshot_quarantine
    FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION sf_snapshot_tenant();
