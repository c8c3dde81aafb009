-- operations: who did what, what was planned, and who may ask.                          (X-02, X-05, X-06)
-- phase: expand

CREATE TABLE audit_logs (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at               timestamptz NOT NULL DEFAULT sf_now(),
    tenant_id        text NOT NULL DEFAULT sf_tenant(),
    actor            text NOT NULL,
    role             text NOT NULL,
    operation        text NOT NULL,
    arguments        jsonb NOT NULL DEFAULT '{}',
    reason           text,
    plan_id          uuid,
    idempotency_key  text,
    request_id       uuid,
    source_address   text,
    incident_id      uuid,
    matched          integer NOT NULL DEFAULT 0,
    changed          integer NOT NULL DEFAULT 0,
    before           jsonb,
    after            jsonb,
    result           jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_logs_at ON audit_logs (at DESC);
CREATE UNIQUE INDEX audit_logs_key ON audit_logs (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE FUNCTION sf_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, lower(TG_OP)
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION sf_append_only();
CREATE TRIGGER audit_logs_never_emptied BEFORE TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION sf_append_only();

CREATE TABLE operation_plans (
    id           uuid PRIMARY KEY,
    tenant_id    text NOT NULL DEFAULT sf_tenant(),
    actor        text NOT NULL,
    operation    text NOT NULL,
    arguments    jsonb NOT NULL,
    fingerprint  text NOT NULL,
    change       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    expires_at   timestamptz NOT NULL,
    applied_at   timestamptz
);

CREATE TABLE api_tokens (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id     text NOT NULL DEFAULT sf_tenant(),
    name          text NOT NULL,
    role          text NOT NULL CONSTRAINT api_tokens_role CHECK (role IN ('viewer', 'operator', 'admin')),
    hash          bytea NOT NULL UNIQUE,
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    expires_at    timestamptz,
    last_used_at  timestamptz,
    revoked_at    timestamptz
);
COMMENT ON COLUMN api_tokens.hash IS 'SHA-256 of the token; the token itself is 256 random bits and is kept nowhere.';
