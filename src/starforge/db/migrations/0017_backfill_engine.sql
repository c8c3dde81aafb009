-- backfill_engine: what a backfill is to do, how it goes, and what its assets are.                 (B-04, B-05, B-17 to B-49)
-- phase: expand

CREATE EXTENSION IF NOT EXISTS btree_gist;

ALTER TABLE backfill_jobs
    ADD COLUMN covers int8multirange NOT NULL DEFAULT '{}',
    ADD COLUMN job_type text NOT NULL DEFAULT '',
    ADD COLUMN priority integer NOT NULL DEFAULT 0,
    ADD COLUMN concurrency integer NOT NULL DEFAULT 4 CONSTRAINT backfill_jobs_concurrency CHECK (concurrency >= 1),
    ADD COLUMN attempts_max integer NOT NULL DEFAULT 3 CONSTRAINT backfill_jobs_attempts CHECK (attempts_max >= 1),
    ADD COLUMN failed_max integer NOT NULL DEFAULT 0 CONSTRAINT backfill_jobs_failed_max CHECK (failed_max >= 0),
    ADD COLUMN cancelled_partitions integer NOT NULL DEFAULT 0,
    ADD COLUMN canary_partitions integer NOT NULL DEFAULT 0,
    ADD COLUMN canary_judged_at timestamptz,
    ADD COLUMN sla_at timestamptz,
    ADD COLUMN code_version text,
    ADD COLUMN request jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN waits_for uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN created_by text,
    ADD COLUMN state_by text,
    ADD COLUMN state_reason text,
    ADD COLUMN changed jsonb,
    ADD COLUMN resume_at timestamptz,
    ADD COLUMN started_at timestamptz,
    ADD COLUMN progress_at timestamptz,
    ADD COLUMN closed_at timestamptz,
    ADD COLUMN checkpoint_ordinal bigint,
    ADD COLUMN pace double precision NOT NULL DEFAULT 1,
    ADD COLUMN pace_reason text,
    ADD COLUMN eta_low_at timestamptz,
    ADD COLUMN eta_high_at timestamptz,
    ADD COLUMN eta_basis text,
    ADD COLUMN eta_state jsonb,
    ADD COLUMN look jsonb,
    ADD CONSTRAINT backfill_jobs_overlap EXCLUDE USING gist (tenant_id WITH =, asset_name WITH =, covers WITH &&)
        WHERE (state IN ('pending', 'running', 'paused', 'resuming'));
COMMENT ON COLUMN backfill_jobs.covers IS 'Ordinals of its partitions: two live backfills of one asset never share one.';
COMMENT ON COLUMN backfill_jobs.job_type IS 'Type of the queue jobs that do its partitions.';
COMMENT ON COLUMN backfill_jobs.attempts_max IS 'Failures after which a partition is given up.';
COMMENT ON COLUMN backfill_jobs.failed_max IS 'So many failed partitions a completed backfill may have; with more it ends as failed.';
COMMENT ON COLUMN backfill_jobs.request IS 'What was asked for, as a clone asks for it again.';
COMMENT ON COLUMN backfill_jobs.waits_for IS 'Backfills of upstream assets that must be completed before this one starts.';
COMMENT ON COLUMN backfill_jobs.state_by IS 'Who paused, resumed or cancelled it last, and in state_reason why.';
COMMENT ON COLUMN backfill_jobs.changed IS 'The last operation: its name, by whom, when, and the version it made; at another one somebody wrote by hand.';
COMMENT ON COLUMN backfill_jobs.closed_at IS 'When all its partitions were terminal and counted; nothing more is written of it.';
COMMENT ON COLUMN backfill_jobs.checkpoint_ordinal IS 'Place of checkpoint_partition_key in the declared order.';
COMMENT ON COLUMN backfill_jobs.pace IS 'Share of its concurrency that it may use now, by the health of the database.';
COMMENT ON COLUMN backfill_jobs.eta_basis IS 'What the estimate rests on, or why there is none.';
COMMENT ON COLUMN backfill_jobs.eta_state IS 'What was learnt about its durations, for the next coordinator.';
COMMENT ON COLUMN backfill_jobs.look IS 'What a look shows beside the counters: partitions by their place, last failures.';
CREATE INDEX backfill_jobs_due ON backfill_jobs (priority DESC, created_at) WHERE closed_at IS NULL;
CREATE INDEX backfill_jobs_listed ON backfill_jobs (created_at DESC);
CREATE INDEX backfill_jobs_children ON backfill_jobs (parent_id) WHERE parent_id IS NOT NULL;

-- A partition is found by its place. Nothing that its attempts change is in an index, so that they are updated in place.
DROP INDEX backfill_partitions_state_idx;
ALTER TABLE backfill_partitions
    DROP CONSTRAINT backfill_partitions_pkey,
    ADD PRIMARY KEY (backfill_job_id, ordinal),
    ADD COLUMN queue_job_id uuid,
    ADD COLUMN cursor jsonb,
    ADD COLUMN started_at timestamptz,
    ADD COLUMN duration_ms double precision,
    ADD COLUMN fingerprint text,
    ADD COLUMN code_version text,
    ADD COLUMN reopened_at timestamptz,
    ADD COLUMN is_canary boolean NOT NULL DEFAULT false,
    SET (fillfactor = 50);
COMMENT ON COLUMN backfill_partitions.queue_job_id IS 'The job that did its last attempt.';
COMMENT ON COLUMN backfill_partitions.cursor IS 'How far its handler came: kept when an attempt ends early.';
COMMENT ON COLUMN backfill_partitions.code_version IS 'Version of the code that completed it.';
COMMENT ON COLUMN backfill_partitions.reopened_at IS 'When it was asked to run again after it had ended.';
CREATE INDEX backfill_partitions_canary ON backfill_partitions (backfill_job_id, ordinal) WHERE is_canary;

CREATE TABLE backfill_ended (
    backfill_job_id  uuid NOT NULL,
    ordinal          bigint NOT NULL,
    tenant_id        text NOT NULL,
    outcome          text NOT NULL CONSTRAINT backfill_ended_outcome CHECK (outcome IN ('completed', 'failed', 'cancelled', 'retried')),
    attempt_count    integer NOT NULL,
    duration_ms      double precision,
    partition_key    text,
    fingerprint      text,
    error_message    text,
    ended_at         timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON TABLE backfill_ended IS 'Attempts that ended and that the counters of their backfill do not know yet: its coordinator takes them out.';
CREATE INDEX backfill_ended_job ON backfill_ended (backfill_job_id);

CREATE TABLE backfill_poison (
    backfill_job_id  uuid NOT NULL REFERENCES backfill_jobs (id) ON DELETE CASCADE,
    row_key          bigint NOT NULL,
    tenant_id        text NOT NULL,
    asset_name       text NOT NULL,
    ordinal          bigint NOT NULL,
    error_type       text NOT NULL,
    error_message    text NOT NULL,
    fingerprint      text,
    created_at       timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (backfill_job_id, row_key)
);
COMMENT ON TABLE backfill_poison IS 'Rows of a key range that no batch of one row got through: stepped over, and kept here with the reason.';

-- Stored snapshots are processed again window by window of the time they were taken at.
CREATE INDEX snapshot_captures_taken ON snapshot_captures (tenant_id, source, captured_at, id);

CREATE TABLE backfill_assets (
    name          text PRIMARY KEY,
    job_type      text NOT NULL,
    scheme        jsonb NOT NULL,
    upstream      jsonb NOT NULL DEFAULT '[]',
    concurrency   integer NOT NULL,
    attempts_max  integer NOT NULL,
    timeout_s     double precision,
    owner         text,
    code_version  text NOT NULL,
    declared_at   timestamptz NOT NULL DEFAULT sf_now(),
    seen_at       timestamptz NOT NULL DEFAULT sf_now(),
    digest        text NOT NULL,
    replaced      text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE backfill_assets IS 'What workers declared: backfills are made from it where the code is not at hand.';
COMMENT ON COLUMN backfill_assets.digest IS 'Of all that is declared: two declarations with the same one are the same.';
COMMENT ON COLUMN backfill_assets.seen_at IS 'When a worker last declared it so; workers do so every minute.';
COMMENT ON COLUMN backfill_assets.replaced IS 'Digests of what it was before: an older worker brings none of them back while workers of the newest live.';

CREATE TABLE backfill_names (
    asset_name     text NOT NULL,
    partition_key  text NOT NULL,
    ordinal        bigint NOT NULL,
    PRIMARY KEY (asset_name, partition_key),
    CONSTRAINT backfill_names_ordinal UNIQUE (asset_name, ordinal)
);
COMMENT ON TABLE backfill_names IS 'Ordinals of partitions that have names instead of an order; none is given twice.';

-- What jobs of one key may run at once can be changed while they run: a backfill's concurrency.
ALTER TABLE setting_overrides DROP CONSTRAINT setting_overrides_scope;
ALTER TABLE setting_overrides ADD CONSTRAINT setting_overrides_scope
    CHECK (scope IN ('all', 'queue', 'type', 'worker', 'key'));

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['backfill_ended', 'backfill_poison'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_owner USING (true) WITH CHECK (true)', t || '_owner', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_operator USING (true) WITH CHECK (true)', t || '_operator', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine USING (true) WITH CHECK (true)', t || '_engine', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_app USING (tenant_id = sf_tenant())', t || '_app', t);
    END LOOP;
    -- A foreign key sees every tenant's backfills: what is written of one has to be of a backfill that the app sees itself.
    FOREACH t IN ARRAY ARRAY['backfill_partitions', 'backfill_ended', 'backfill_poison'] LOOP
        EXECUTE format('ALTER POLICY %I ON %I WITH CHECK (tenant_id = sf_tenant()'
                       ' AND EXISTS (SELECT FROM backfill_jobs AS b WHERE b.id = backfill_job_id))', t || '_app', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['backfill_ended', 'backfill_poison', 'backfill_assets', 'backfill_names'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;
