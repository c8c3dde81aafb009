-- upkeep: one leader by a lease, and what it does on time.                            (FAULTS 11, 24, 37, Q-65)
-- phase: expand

-- Who may do what only one may do: a holder, an epoch raised by every change of holder, and the database's clock.
CREATE TABLE leases (
    name        text PRIMARY KEY,
    holder      uuid NOT NULL,
    who         text NOT NULL DEFAULT '',
    epoch       bigint NOT NULL DEFAULT 1,
    expires_at  timestamptz NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON COLUMN leases.who IS 'The holder as a person finds it: host and process id.';

-- How the leader's tasks go: written by the leader, so that every page and a next leader can tell.
CREATE TABLE upkeep_tasks (
    name       text PRIMARY KEY,
    every_s    double precision NOT NULL,
    since      timestamptz NOT NULL DEFAULT sf_now(),
    tried_at   timestamptz NOT NULL,
    done_at    timestamptz,
    error      text,
    ran_ms     double precision NOT NULL
);
COMMENT ON COLUMN upkeep_tasks.since IS 'When it was first tried.';
COMMENT ON COLUMN upkeep_tasks.done_at IS 'When it last succeeded; null: never.';
COMMENT ON COLUMN upkeep_tasks.error IS 'Why its last run failed; null: it did not.';

CREATE TABLE schedules (
    tenant_id     text NOT NULL,
    name          text NOT NULL CONSTRAINT schedules_name CHECK (name <> '' AND length(name) <= 200),
    type          text NOT NULL,
    payload       jsonb NOT NULL DEFAULT '{}',
    passes_time   boolean NOT NULL DEFAULT false,
    queue         text NOT NULL DEFAULT 'default',
    priority      integer NOT NULL DEFAULT 0,
    max_attempts  integer CONSTRAINT schedules_max_attempts CHECK (max_attempts >= 1),
    limit_key     text NOT NULL DEFAULT '',
    same          jsonb,
    cron          text NOT NULL,
    timezone      text NOT NULL DEFAULT 'UTC',
    missed        text NOT NULL DEFAULT 'latest'
                  CONSTRAINT schedules_missed CHECK (missed IN ('skip', 'latest', 'all')),
    next_at       timestamptz NOT NULL,
    last_at       timestamptz,
    last_job_id   uuid,
    fault         text,
    fault_at      timestamptz,
    paused_by     text,
    pause_reason  text,
    paused_at     timestamptz,
    paused_until  timestamptz,
    declared_by   text NOT NULL DEFAULT '',
    declared_at   timestamptz NOT NULL DEFAULT sf_now(),
    created_at    timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, name),
    CONSTRAINT schedules_pause CHECK (
        num_nulls(paused_by, pause_reason, paused_at, paused_until) IN (0, 4))
);
COMMENT ON COLUMN schedules.passes_time IS 'The handler takes scheduled_at: the tick''s time goes into the payload.';
COMMENT ON COLUMN schedules.same IS 'The unique key of its type, {"text", "states", "within_s", "on_conflict"}: while it holds, ticks become no jobs. Null: each tick is one.';
COMMENT ON COLUMN schedules.missed IS 'Ticks that nobody was there for: skip them, run the latest, or run all (bounded).';
COMMENT ON COLUMN schedules.next_at IS 'The first tick that was not dealt with yet; whoever moves it on has dealt with those before.';
COMMENT ON COLUMN schedules.last_at IS 'The last tick that became a job.';
COMMENT ON COLUMN schedules.fault IS 'Why its ticks cannot become jobs; tried again every minute.';
COMMENT ON COLUMN schedules.paused_until IS 'Ticks from paused_at until this never become jobs.';
COMMENT ON COLUMN schedules.declared_at IS 'When a worker that knows it started last; one that nobody declares any more stays until it is removed.';
CREATE INDEX schedules_next ON schedules (next_at);

COMMENT ON TABLE job_minutes IS 'Depths are those of pending jobs that are due. The row of queue '''', type '''' says that a minute was sampled, and holds the sum.';

-- Dead letters by type and class of error are counted on every page: without a look at the errors themselves.
ALTER TABLE queue_jobs_dlq ADD COLUMN error_class text GENERATED ALWAYS AS (left(coalesce(last_error ->> 'error', ''), 80)) STORED;
COMMENT ON COLUMN queue_jobs_dlq.error_class IS 'The class of the last error; empty in rows written by hand.';
CREATE INDEX queue_jobs_dlq_class ON queue_jobs_dlq (type, error_class) INCLUDE (archived_at);

-- Dropping a partition takes the whole table to itself: completions queue behind a drop that waits for a reader.
ALTER FUNCTION sf_drop_partitions(text, integer) SET lock_timeout = '200ms';

ALTER TABLE schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedules FORCE ROW LEVEL SECURITY;
CREATE POLICY schedules_owner ON schedules TO starforge_owner USING (true) WITH CHECK (true);
CREATE POLICY schedules_operator ON schedules TO starforge_operator USING (true) WITH CHECK (true);
CREATE POLICY schedules_engine ON schedules TO starforge_engine USING (true) WITH CHECK (true);
CREATE POLICY schedules_app ON schedules TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON leases, upkeep_tasks, schedules TO starforge_engine, starforge_app, starforge_operator;
