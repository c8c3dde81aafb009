-- backfill: jobs over partitions, and the moves that their state allows.          (B-01 to B-05, D-03, D-04)
-- phase: expand

CREATE TABLE backfill_jobs (
    id                        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id                 text NOT NULL DEFAULT sf_tenant(),
    parent_id                 uuid REFERENCES backfill_jobs (id),
    asset_name                text NOT NULL,
    state                     text NOT NULL DEFAULT 'pending'
                              CONSTRAINT backfill_jobs_state CHECK (state IN (
                                  'pending', 'running', 'paused', 'resuming', 'completed', 'failed', 'cancelled')),
    version                   integer NOT NULL DEFAULT 1,
    worker_id                 uuid,
    lease_epoch               bigint NOT NULL DEFAULT 0,
    heartbeat_at              timestamptz,
    paused_at                 timestamptz,
    checkpoint_partition_key  text,
    total_partitions          integer NOT NULL DEFAULT 0,
    completed_partitions      integer NOT NULL DEFAULT 0,
    failed_partitions         integer NOT NULL DEFAULT 0,
    avg_partition_duration_ms double precision,
    estimated_completion_at   timestamptz,
    error_message             text,
    created_at                timestamptz NOT NULL DEFAULT sf_now(),
    updated_at                timestamptz NOT NULL DEFAULT sf_now(),
    completed_at              timestamptz
);
CREATE INDEX backfill_jobs_live ON backfill_jobs (state, heartbeat_at)
    WHERE state IN ('pending', 'running', 'paused', 'resuming');

CREATE TABLE backfill_partitions (
    backfill_job_id  uuid NOT NULL REFERENCES backfill_jobs (id) ON DELETE CASCADE,
    partition_key    text NOT NULL,
    tenant_id        text NOT NULL,
    ordinal          bigint NOT NULL DEFAULT 0,
    state            text NOT NULL DEFAULT 'pending'
                     CONSTRAINT backfill_partitions_state CHECK (state IN (
                         'pending', 'running', 'completed', 'failed', 'cancelled')),
    attempt_count    integer NOT NULL DEFAULT 0,
    error_message    text,
    created_at       timestamptz NOT NULL DEFAULT sf_now(),
    updated_at       timestamptz NOT NULL DEFAULT sf_now(),
    completed_at     timestamptz,
    PRIMARY KEY (backfill_job_id, partition_key)
);
CREATE INDEX backfill_partitions_state_idx ON backfill_partitions (backfill_job_id, state, ordinal);

CREATE FUNCTION sf_partition_tenant() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT tenant_id INTO NEW.tenant_id FROM backfill_jobs WHERE id = NEW.backfill_job_id;
    NEW.tenant_id := coalesce(NEW.tenant_id, sf_tenant());
    RETURN NEW;
END $$;
CREATE TRIGGER backfill_partitions_tenant BEFORE INSERT ON backfill_partitions
    FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION sf_partition_tenant();

-- The rows of backfill/backfill.py, as (from, to); a test holds the two against each other.
CREATE TABLE backfill_moves (
    source  text NOT NULL,
    target  text NOT NULL,
    PRIMARY KEY (source, target)
);
INSERT INTO backfill_moves (source, target) VALUES
    ('pending', 'running'), ('resuming', 'running'),
    ('pending', 'paused'), ('running', 'paused'), ('resuming', 'paused'),
    ('paused', 'resuming'),
    ('running', 'completed'), ('running', 'failed'),
    ('pending', 'cancelled'), ('running', 'cancelled'), ('paused', 'cancelled'), ('resuming', 'cancelled');

CREATE FUNCTION sf_backfill_move() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM backfill_moves WHERE source = OLD.state AND target = NEW.state) THEN
        RAISE EXCEPTION 'backfill %: % cannot become %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'backfill_jobs_move',
                  HINT = 'See the moves that its state allows: SELECT * FROM backfill_moves.';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER backfill_jobs_move BEFORE UPDATE OF state ON backfill_jobs
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION sf_backfill_move();
