-- backfill_scale: what forgotten backfills made stays known; backfills are found by tenant, asset and what is due.   (B-29, B-67)
-- phase: expand

CREATE TABLE backfill_made (
    tenant_id      text NOT NULL,
    asset_name     text NOT NULL,
    ordinal        bigint NOT NULL,
    partition_key  text NOT NULL,
    completed_at   timestamptz NOT NULL,
    code_version   text,
    PRIMARY KEY (tenant_id, asset_name, ordinal, partition_key)
);
COMMENT ON TABLE backfill_made IS 'When partitions were completed last, of backfills that are forgotten.';

-- A list is read from its end on, and an asset's backfills by themselves, however many there are of others.
CREATE INDEX backfill_jobs_tenant ON backfill_jobs (tenant_id, created_at DESC, id DESC);
CREATE INDEX backfill_jobs_asset ON backfill_jobs (tenant_id, asset_name, created_at DESC, id DESC);
CREATE INDEX backfill_jobs_closed ON backfill_jobs (closed_at) WHERE closed_at IS NOT NULL;
DROP INDEX backfill_jobs_listed;

-- Coordinators look every second, however many are paused.
CREATE INDEX backfill_jobs_open ON backfill_jobs (id) WHERE closed_at IS NULL AND state <> 'paused';
CREATE INDEX backfill_jobs_planned ON backfill_jobs (resume_at) WHERE state = 'paused' AND resume_at IS NOT NULL;

ALTER TABLE backfill_made ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfill_made FORCE ROW LEVEL SECURITY;
CREATE POLICY backfill_made_owner ON backfill_made TO starforge_owner USING (true) WITH CHECK (true);
CREATE POLICY backfill_made_operator ON backfill_made TO starforge_operator USING (true) WITH CHECK (true);
CREATE POLICY backfill_made_engine ON backfill_made TO starforge_engine USING (true) WITH CHECK (true);
CREATE POLICY backfill_made_app ON backfill_made TO starforge_app USING (tenant_id = sf_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON backfill_made TO starforge_engine, starforge_app, starforge_operator;

-- Neither has a tenant: what workers declare and which ordinals names have is everybody's, and no tenant's to change.
REVOKE INSERT, UPDATE, DELETE ON backfill_assets FROM starforge_app;
REVOKE UPDATE, DELETE ON backfill_names FROM starforge_app;
