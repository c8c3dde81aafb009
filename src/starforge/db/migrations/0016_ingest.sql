-- ingest: the first answer to each idempotency key, and a role that may offer snapshots and nothing else.    (G10, F-20)
-- phase: expand

CREATE TABLE ingest_keys (
    tenant_id    text NOT NULL,
    client       text NOT NULL,
    key          text NOT NULL CONSTRAINT ingest_keys_key CHECK (key <> '' AND length(key) <= 200),
    fingerprint  bytea NOT NULL,
    answer       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT sf_now(),
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, client, key)
);
COMMENT ON TABLE ingest_keys IS 'What was answered to an offer with an Idempotency-Key: written in the transaction that took the offer.';
COMMENT ON COLUMN ingest_keys.client IS 'The name of the token that the key came with: each client has keys of its own.';
COMMENT ON COLUMN ingest_keys.fingerprint IS 'SHA-256 of what was offered and how: the same key with another one is refused.';
CREATE INDEX ingest_keys_expires ON ingest_keys (expires_at);

ALTER TABLE ingest_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE ingest_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY ingest_keys_owner ON ingest_keys TO starforge_owner USING (true) WITH CHECK (true);
CREATE POLICY ingest_keys_operator ON ingest_keys TO starforge_operator USING (true) WITH CHECK (true);
CREATE POLICY ingest_keys_engine ON ingest_keys TO starforge_engine USING (true) WITH CHECK (true);
CREATE POLICY ingest_keys_app ON ingest_keys TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest_keys TO starforge_engine, starforge_app, starforge_operator;

-- producer stands outside the ladder of viewer, operator and admin: it offers snapshots and sees what became of them.
ALTER TABLE api_tokens DROP CONSTRAINT api_tokens_role;
ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_role CHECK (role IN ('producer', 'viewer', 'operator', 'admin'));
