-- upkeep: one leader by a lease, and what it does on time.                                  (FAULTS 24, 37)
-- phase: expand

-- Who may do what only one may do: a holder, an epoch raised by every change of holder, and the database's clock.
CREATE TABLE leases (
    name        text PRIMARY KEY,
    holder      uuid NOT NULL,
    epoch       bigint NOT NULL DEFAULT 1,
    expires_at  timestamptz NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT sf_now()
);

CREATE TABLE schedules (
    name        text PRIMARY KEY,
    tenant_id   text NOT NULL,
    type        text NOT NULL,
    payload     jsonb NOT NULL DEFAULT '{}',
    queue       text NOT NULL DEFAULT 'default',
    priority    integer NOT NULL DEFAULT 0,
    cron        text NOT NULL,
    timezone    text NOT NULL DEFAULT 'UTC',
    missed      text NOT NULL DEFAULT 'latest'
                CONSTRAINT schedules_missed CHECK (missed IN ('skip', 'latest', 'all')),
    next_at     timestamptz NOT NULL,
    last_at     timestamptz,
    last_job_id uuid,
    declared_by text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    updated_at  timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON COLUMN schedules.missed IS 'Ticks that nobody was there for: skip them, run the latest, or run all (bounded).';
CREATE INDEX schedules_next ON schedules (next_at);

ALTER TABLE schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE schedules FORCE ROW LEVEL SECURITY;
CREATE POLICY schedules_owner ON schedules TO starforge_owner USING (true) WITH CHECK (true);
CREATE POLICY schedules_operator ON schedules TO starforge_operator USING (true) WITH CHECK (true);
CREATE POLICY schedules_engine ON schedules TO starforge_engine USING (true) WITH CHECK (true);
CREATE POLICY schedules_app ON schedules TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON leases, schedules TO starforge_engine, starforge_app, starforge_operator;
