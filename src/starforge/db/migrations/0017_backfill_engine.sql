-- backfill_engine: what a backfill is to do, how it goes, and what was made of each partition.  (B-04, B-05, B-17 to B-49)
-- phase: expand

CREATE EXTENSION IF NOT EXISTS btree_gist;

ALTER TABLE backfill_jobs
    ADD COLUMN covers int8multirange NOT NULL DEFAULT '{}',
    ADD COLUMN priority integer NOT NULL DEFAULT 0,
    ADD COLUMN concurrency integer NOT NULL DEFAULT 4 CONSTRAINT backfill_jobs_concurrency CHECK (concurrency >= 1),
    ADD COLUMN attempts_max integer NOT NULL DEFAULT 3 CONSTRAINT backfill_jobs_attempts CHECK (attempts_max >= 1),
    ADD COLUMN failed_max integer NOT NULL DEFAULT 0 CONSTRAINT backfill_jobs_failed_max CHECK (failed_max >= 0),
    ADD COLUMN cancelled_partitions integer NOT NULL DEFAULT 0,
    ADD COLUMN sla_at timestamptz,
    ADD COLUMN code_version text,
    ADD COLUMN params jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN waits_for uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN created_by text,
    ADD COLUMN started_at timestamptz,
    ADD COLUMN checkpoint_ordinal bigint,
    ADD COLUMN progress_at timestamptz,
    ADD COLUMN pace double precision NOT NULL DEFAULT 1,
    ADD COLUMN pace_reason text,
    ADD COLUMN eta_low_at timestamptz,
    ADD COLUMN eta_high_at timestamptz,
    ADD COLUMN eta_reason text,
    ADD COLUMN eta_state jsonb,
    ADD CONSTRAINT backfill_jobs_overlap EXCLUDE USING gist (tenant_id WITH =, asset_name WITH =, covers WITH &&)
        WHERE (state IN ('pending', 'running', 'paused', 'resuming'));
COMMENT ON COLUMN backfill_jobs.covers IS 'Ordinals of its partitions: two live backfills of one asset never share one.';
COMMENT ON COLUMN backfill_jobs.failed_max IS 'So many failed partitions a completed backfill may have.';
COMMENT ON COLUMN backfill_jobs.waits_for IS 'Backfills of upstream assets that must be completed before this one starts.';
COMMENT ON COLUMN backfill_jobs.checkpoint_ordinal IS 'Place of checkpoint_partition_key in the declared order.';
COMMENT ON COLUMN backfill_jobs.pace IS 'Share of its concurrency that it may use now, by the health of the database.';

ALTER TABLE backfill_partitions
    ADD COLUMN queue_job_id uuid,
    ADD COLUMN cursor jsonb,
    ADD COLUMN started_at timestamptz,
    ADD COLUMN duration_ms double precision,
    ADD COLUMN fingerprint text,
    ADD COLUMN is_canary boolean NOT NULL DEFAULT false,
    ADD COLUMN is_folded boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN backfill_partitions.queue_job_id IS 'The job that does it, while one does.';
COMMENT ON COLUMN backfill_partitions.cursor IS 'How far its handler came: kept when an attempt ends early.';
COMMENT ON COLUMN backfill_partitions.is_folded IS 'The counters of its backfill know that it is over.';
CREATE INDEX backfill_partitions_unfolded ON backfill_partitions (backfill_job_id, ordinal)
    WHERE NOT is_folded AND state IN ('completed', 'failed', 'cancelled');
CREATE INDEX backfill_partitions_unfed ON backfill_partitions (backfill_job_id, is_canary DESC, ordinal)
    WHERE state = 'pending' AND queue_job_id IS NULL;
CREATE INDEX backfill_jobs_due ON backfill_jobs (priority DESC, created_at)
    WHERE state IN ('pending', 'resuming', 'running');

-- What a backfill may run at once is the limit of its key, which changes while it runs.
ALTER TABLE setting_overrides DROP CONSTRAINT setting_overrides_scope;
ALTER TABLE setting_overrides ADD CONSTRAINT setting_overrides_scope
    CHECK (scope IN ('all', 'queue', 'type', 'worker', 'key'));

CREATE TABLE backfill_assets (
    name          text PRIMARY KEY,
    scheme        text NOT NULL,
    upstream      text[] NOT NULL DEFAULT '{}',
    concurrency   integer NOT NULL,
    owner         text,
    code_version  text NOT NULL,
    declared_at   timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON TABLE backfill_assets IS 'What workers declared: one may be backfilled while a live worker knows it.';

CREATE TABLE backfill_names (
    asset_name     text NOT NULL,
    ordinal        bigint NOT NULL,
    partition_key  text NOT NULL,
    PRIMARY KEY (asset_name, partition_key),
    CONSTRAINT backfill_names_ordinal UNIQUE (asset_name, ordinal)
);
COMMENT ON TABLE backfill_names IS 'Ordinals of partitions that have names instead of an order; none is given twice.';

CREATE TABLE backfill_made (
    tenant_id      text NOT NULL,
    asset_name     text NOT NULL,
    ordinal        bigint NOT NULL,
    partition_key  text NOT NULL,
    code_version   text NOT NULL,
    backfill_id    uuid NOT NULL,
    made_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, asset_name, ordinal)
);
COMMENT ON TABLE backfill_made IS 'When each partition of an asset was made last, and by which version of its code.';

DO $$
DECLARE
    t text;
BEGIN
    ALTER TABLE backfill_made ENABLE ROW LEVEL SECURITY;
    ALTER TABLE backfill_made FORCE ROW LEVEL SECURITY;
    CREATE POLICY backfill_made_owner ON backfill_made TO starforge_owner USING (true) WITH CHECK (true);
    CREATE POLICY backfill_made_operator ON backfill_made TO starforge_operator USING (true) WITH CHECK (true);
    CREATE POLICY backfill_made_engine ON backfill_made TO starforge_engine USING (true) WITH CHECK (true);
    CREATE POLICY backfill_made_app ON backfill_made TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());
    FOREACH t IN ARRAY ARRAY['backfill_assets', 'backfill_names', 'backfill_made'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;
