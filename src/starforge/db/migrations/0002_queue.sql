-- queue: jobs, their history, the dead letters, workers and gates.                  (Q-23, Q-49, D-19)
-- phase: expand

CREATE TABLE queue_jobs (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id     text NOT NULL,
    queue         text NOT NULL DEFAULT 'default',
    type          text NOT NULL,
    payload       jsonb NOT NULL DEFAULT '{}',
    priority      integer NOT NULL DEFAULT 0,
    status        text NOT NULL DEFAULT 'pending'
                  CONSTRAINT queue_jobs_status CHECK (status IN ('pending', 'running', 'paused', 'failed', 'quarantined')),
    attempts      integer NOT NULL DEFAULT 0,
    max_attempts  integer NOT NULL DEFAULT 5,
    kills         integer NOT NULL DEFAULT 0,
    run_after     timestamptz NOT NULL DEFAULT sf_now(),
    last_error    jsonb,
    worker_id     uuid,
    lease_epoch   bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    updated_at    timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON COLUMN queue_jobs.priority IS 'Higher runs first.';
COMMENT ON COLUMN queue_jobs.attempts IS 'Finished failures; a worker that dies does not raise it.';
COMMENT ON COLUMN queue_jobs.kills IS 'Workers that died while this job was running on them.';
COMMENT ON COLUMN queue_jobs.lease_epoch IS 'Raised by every claim and reclaim; acknowledging writes must carry the newest.';

CREATE INDEX queue_jobs_ready ON queue_jobs (queue, type, priority, run_after) WHERE status = 'pending';
CREATE INDEX queue_jobs_held ON queue_jobs (status, updated_at DESC) WHERE status IN ('failed', 'quarantined', 'paused');

CREATE TABLE job_history (
    id            uuid NOT NULL,
    tenant_id     text NOT NULL,
    queue         text NOT NULL,
    type          text NOT NULL,
    payload       jsonb NOT NULL,
    priority      integer NOT NULL,
    status        text NOT NULL CONSTRAINT job_history_status CHECK (status IN ('completed', 'cancelled')),
    attempts      integer NOT NULL,
    max_attempts  integer NOT NULL,
    run_after     timestamptz NOT NULL,
    last_error    jsonb,
    worker_id     uuid,
    lease_epoch   bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    started_at    timestamptz,
    completed_at  timestamptz NOT NULL,
    ran_ms        real
) PARTITION BY RANGE (completed_at);
CREATE INDEX job_history_id ON job_history (id);
-- Rows arrive in this order: a few pages of BRIN answer "the last five minutes" over millions of them.
CREATE INDEX job_history_completed ON job_history USING brin (completed_at) WITH (pages_per_range = 32);
-- A completion must never fail because tomorrow's partition is late.
CREATE TABLE job_history_default PARTITION OF job_history DEFAULT;

-- Makes the daily partitions from today to `days` ahead. The engine may not create tables in the owner's
-- name, and partitions must belong to the owner.
CREATE FUNCTION sf_history_partitions(days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s'
    AS $$
DECLARE
    start date := (sf_now() AT TIME ZONE 'UTC')::date;
    made integer := 0;
    day date;
BEGIN
    -- Two workers that do this at once would wait for each other's table locks.
    PERFORM pg_advisory_xact_lock(hashtext('sf_history_partitions'));
    FOR day IN SELECT start + n FROM generate_series(0, least(days, 366)) AS n LOOP
        IF to_regclass('job_history_' || to_char(day, 'YYYYMMDD')) IS NOT NULL THEN CONTINUE; END IF;
        -- Rows that fell into the default partition keep this day there; the next day is free again.
        PERFORM 1 FROM job_history_default
            WHERE completed_at >= day::timestamp AT TIME ZONE 'UTC'
              AND completed_at < (day + 1)::timestamp AT TIME ZONE 'UTC' LIMIT 1;
        IF FOUND THEN CONTINUE; END IF;
        -- CREATE … PARTITION OF would lock the whole history against every completion, and wait for every
        -- reader to do so. Attaching needs only the default partition to itself, and gives up after a second.
        EXECUTE format('CREATE TABLE %I (LIKE job_history INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
            'job_history_' || to_char(day, 'YYYYMMDD'));
        EXECUTE format('ALTER TABLE job_history ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            'job_history_' || to_char(day, 'YYYYMMDD'),
            day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

CREATE TABLE queue_jobs_dlq (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    original_job_id  uuid NOT NULL,
    generation       bigint,
    tenant_id        text NOT NULL,
    queue            text,
    type             text NOT NULL,
    payload          jsonb NOT NULL,
    reason           text NOT NULL,
    original_status  text,
    last_error       jsonb,
    priority         integer,
    attempts         integer,
    max_attempts     integer,
    kills            integer,
    worker_id        uuid,
    job_created_at   timestamptz,
    created_at       timestamptz NOT NULL DEFAULT sf_now(),
    archived_at      timestamptz,
    CONSTRAINT queue_jobs_dlq_once UNIQUE (original_job_id, generation)
);
COMMENT ON COLUMN queue_jobs_dlq.generation IS 'The lease epoch of the move; null in rows written by hand (Q-50).';
CREATE INDEX queue_jobs_dlq_created ON queue_jobs_dlq (created_at DESC);
CREATE INDEX queue_jobs_dlq_type ON queue_jobs_dlq (type, created_at DESC);

CREATE TABLE workers (
    id                uuid PRIMARY KEY,
    host              text NOT NULL,
    machine           text NOT NULL,
    pid               integer NOT NULL,
    pid_started_s     double precision NOT NULL,
    version           text NOT NULL,
    state             text NOT NULL DEFAULT 'running'
                      CONSTRAINT workers_state CHECK (state IN ('running', 'stopping', 'stopped', 'dead')),
    queues            text[] NOT NULL,
    types             text[] NOT NULL,
    concurrency       integer NOT NULL,
    started_at        timestamptz NOT NULL DEFAULT sf_now(),
    heartbeat_at      timestamptz NOT NULL DEFAULT sf_now(),
    lease_expires_at  timestamptz NOT NULL,
    stopped_at        timestamptz,
    stop_reason       text
);
COMMENT ON COLUMN workers.machine IS 'Boot id and process namespace: where pid means something.';
COMMENT ON COLUMN workers.pid_started_s IS 'Seconds from boot to the start of process pid: setting the clock does not move it.';
CREATE INDEX workers_live ON workers (lease_expires_at) WHERE state IN ('running', 'stopping');

CREATE TABLE gates (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    scope       text NOT NULL CONSTRAINT gates_scope CHECK (scope IN ('queue', 'type', 'tenant')),
    name        text NOT NULL,
    cause       text NOT NULL CONSTRAINT gates_cause CHECK (cause IN ('pause')),
    owner       text NOT NULL,
    reason      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    expires_at  timestamptz NOT NULL,
    CONSTRAINT gates_one_of_a_cause UNIQUE (scope, name, cause)
);
COMMENT ON TABLE gates IS 'May this start now? A gate withholds and never changes job rows; expired rows no longer count (X-11).';

-- A row made by hand names no tenant: it takes that of the snapshot its payload names, else the setting.
CREATE FUNCTION sf_job_tenant() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NEW.payload ? 'snapshot_id' THEN
        SELECT tenant_id INTO NEW.tenant_id FROM hero_snapshots WHERE id::text = NEW.payload ->> 'snapshot_id';
    END IF;
    NEW.tenant_id := coalesce(NEW.tenant_id, sf_tenant());
    RETURN NEW;
END $$;
CREATE TRIGGER queue_jobs_tenant BEFORE INSERT ON queue_jobs
    FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION sf_job_tenant();

CREATE FUNCTION sf_dlq_tenant() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT tenant_id INTO NEW.tenant_id FROM queue_jobs WHERE id = NEW.original_job_id;
    IF NEW.tenant_id IS NULL THEN
        SELECT tenant_id INTO NEW.tenant_id FROM job_history WHERE id = NEW.original_job_id LIMIT 1;
    END IF;
    NEW.tenant_id := coalesce(NEW.tenant_id, sf_tenant());
    RETURN NEW;
END $$;
CREATE TRIGGER queue_jobs_dlq_tenant BEFORE INSERT ON queue_jobs_dlq
    FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION sf_dlq_tenant();
