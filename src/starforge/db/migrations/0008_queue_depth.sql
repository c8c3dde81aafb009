-- queue_depth: what a job may carry, keys, limits, rates, gates of every scope, and what is known of a type.
-- phase: expand

ALTER TABLE queue_jobs
    ADD COLUMN limit_key      text NOT NULL DEFAULT '',
    ADD COLUMN tags           text[],
    ADD COLUMN timeout_s      real CONSTRAINT queue_jobs_timeout CHECK (timeout_s > 0),
    ADD COLUMN trace          text,
    ADD COLUMN suspect        boolean NOT NULL DEFAULT false,
    ADD COLUMN reclaims       smallint NOT NULL DEFAULT 0,
    ADD COLUMN cancel_reason  text;
COMMENT ON COLUMN queue_jobs.limit_key IS 'Jobs of one type and key share the type''s limit per key; empty: no key.';
COMMENT ON COLUMN queue_jobs.trace IS 'W3C traceparent of whoever enqueued it.';
COMMENT ON COLUMN queue_jobs.suspect IS 'It ran on a worker that died with others: it is run alone, in a process of its own.';
COMMENT ON COLUMN queue_jobs.reclaims IS 'Leases that ended under it without anybody knowing why.';
COMMENT ON COLUMN queue_jobs.cancel_reason IS 'Set on a running job: its worker is asked to cancel it.';

-- Room on its page for the version that the claim makes of a row: that logs half of what a move to another page does.
-- An emptied queue keeps its pages: cutting them off takes a lock that stops every claim.
ALTER TABLE queue_jobs SET (fillfactor = 60, vacuum_truncate = off);

-- A lane is what one scan of the claim covers: (queue, type, priority, tenant, limit key), in the order of run_after.
-- Tenants and keys are columns of the index, so that what one of them may not start costs the others nothing.
CREATE INDEX queue_jobs_lane ON queue_jobs (queue, type, priority, tenant_id, limit_key, run_after) WHERE status = 'pending';
DROP INDEX queue_jobs_ready;
CREATE INDEX queue_jobs_cancelling ON queue_jobs (worker_id) WHERE cancel_reason IS NOT NULL;

ALTER TABLE job_history
    ADD COLUMN tags    text[],
    ADD COLUMN trace   text,
    ADD COLUMN kills   integer NOT NULL DEFAULT 0,
    ADD COLUMN reason  text,
    ADD COLUMN result  jsonb;
COMMENT ON COLUMN job_history.reason IS 'Why it was cancelled or discarded.';

ALTER TABLE queue_jobs_dlq
    ADD COLUMN limit_key  text NOT NULL DEFAULT '',
    ADD COLUMN tags       text[],
    ADD COLUMN timeout_s  real,
    ADD COLUMN trace      text;

-- A key says "this is one job": it holds while its job is in one of the states, and besides until expires_at, whatever
-- became of the job.
-- Whether it still holds is decided when somebody enqueues with it, so that claim and completion never touch it.
CREATE TABLE job_keys (
    tenant_id   text NOT NULL,
    type        text NOT NULL,
    key         text NOT NULL CONSTRAINT job_keys_key CHECK (key <> '' AND octet_length(key) <= 512),
    job_id      uuid NOT NULL,
    states      text[] NOT NULL,
    expires_at  timestamptz,
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, type, key)
);

-- What a running job says of itself; written seldom, beside the hot table.
CREATE TABLE job_progress (
    job_id       uuid PRIMARY KEY,
    tenant_id    text NOT NULL,
    lease_epoch  bigint NOT NULL,
    done         double precision,
    total        double precision,
    message      text,
    checkpoint   jsonb,
    updated_at   timestamptz NOT NULL DEFAULT sf_now()
);

-- What the workers know of each type: its declaration, and what was learned.
CREATE TABLE job_types (
    name           text PRIMARY KEY,
    queue          text NOT NULL,
    owner          text,
    critical       boolean NOT NULL DEFAULT false,
    isolated       boolean NOT NULL DEFAULT false,
    timeout_s      double precision,
    max_attempts   integer,
    limits         jsonb NOT NULL DEFAULT '{}',
    declared_at    timestamptz NOT NULL DEFAULT sf_now(),
    seen_at        timestamptz NOT NULL DEFAULT sf_now(),
    killed_at      timestamptz,
    peak_bytes     bigint
);
COMMENT ON COLUMN job_types.limits IS '{"global": n, "worker": n, "per_key": n, "rate_per_s": x, "burst": n}, each where declared.';
COMMENT ON COLUMN job_types.killed_at IS 'When a job of the type last killed a worker: its jobs are claimed one at a time since.';
COMMENT ON COLUMN job_types.peak_bytes IS 'Memory that one of its jobs was seen to need.';

-- Values set at run time; they win over the environment until they expire.
CREATE TABLE setting_overrides (
    scope       text NOT NULL CONSTRAINT setting_overrides_scope CHECK (scope IN ('all', 'queue', 'type', 'worker')),
    name        text NOT NULL DEFAULT '',
    setting     text NOT NULL,
    value       jsonb NOT NULL,
    owner       text NOT NULL,
    reason      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (scope, name, setting)
);

-- A token is the right to run one job under a limit; a worker leases tokens and gives them back when idle.
CREATE TABLE limit_tokens (
    scope      text NOT NULL CONSTRAINT limit_tokens_scope CHECK (scope IN ('queue', 'type')),
    name       text NOT NULL,
    key        text NOT NULL DEFAULT '',
    slot       integer NOT NULL CONSTRAINT limit_tokens_slot CHECK (slot >= 1),
    worker_id  uuid NOT NULL,
    taken_at   timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (scope, name, key, slot)
);

CREATE TABLE rate_buckets (
    scope        text NOT NULL CONSTRAINT rate_buckets_scope CHECK (scope IN ('queue', 'type', 'gate')),
    name         text NOT NULL,
    key          text NOT NULL DEFAULT '',
    tokens       double precision NOT NULL,
    refilled_at  timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (scope, name, key)
);

-- Gates: more scopes, more causes; `rate_per_s` lets a trickle through (0 or null: nothing).
ALTER TABLE gates DROP CONSTRAINT gates_scope, DROP CONSTRAINT gates_cause;
ALTER TABLE gates
    ADD CONSTRAINT gates_scope CHECK (scope IN ('queue', 'type', 'tenant', 'tag')),
    ADD CONSTRAINT gates_cause CHECK (cause IN ('pause', 'breaker', 'throttle', 'retries')),
    ADD COLUMN rate_per_s double precision CONSTRAINT gates_rate CHECK (rate_per_s >= 0),
    ADD COLUMN detail jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN gates.cause IS 'retries: new jobs start, failed ones wait until it is resumed or expires.';

-- Finished attempts by minute, counted in the transactions that finish them: a row per worker, so that none waits for
-- another. depth and oldest_s are samples, in rows of worker 00000000-….
CREATE TABLE job_minutes (
    minute         timestamptz NOT NULL,
    queue          text NOT NULL,
    type           text NOT NULL,
    worker_id      uuid NOT NULL,
    completed      bigint NOT NULL DEFAULT 0,
    failed         bigint NOT NULL DEFAULT 0,
    retried        bigint NOT NULL DEFAULT 0,
    quarantined    bigint NOT NULL DEFAULT 0,
    cancelled      bigint NOT NULL DEFAULT 0,
    ran_ms         double precision NOT NULL DEFAULT 0,
    ran_ms_max     real NOT NULL DEFAULT 0,
    waited_ms      double precision NOT NULL DEFAULT 0,
    depth          bigint,
    oldest_s       double precision,
    PRIMARY KEY (minute, queue, type, worker_id)
);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['job_keys', 'job_progress'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_owner USING (true) WITH CHECK (true)', t || '_owner', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_operator USING (true) WITH CHECK (true)', t || '_operator', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine USING (true) WITH CHECK (true)', t || '_engine', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t || '_app', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['job_keys', 'job_progress', 'job_types', 'setting_overrides', 'limit_tokens', 'rate_buckets', 'job_minutes'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;
