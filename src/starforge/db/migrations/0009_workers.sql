-- workers: what killed them, what they said, and what each may use.                     (O-01, O-16, O-18, F-13)
-- phase: expand

ALTER TABLE workers
    ADD COLUMN connections        integer NOT NULL DEFAULT 0,
    ADD COLUMN high_memory        boolean NOT NULL DEFAULT false,
    ADD COLUMN memory_limit_bytes bigint,
    ADD COLUMN rss_bytes          bigint,
    ADD COLUMN previous_id        uuid,
    ADD COLUMN claimed_at         timestamptz,
    ADD COLUMN jobs_finished      bigint NOT NULL DEFAULT 0;
ALTER TABLE job_types ADD COLUMN peak_at timestamptz;
COMMENT ON COLUMN job_types.peak_at IS 'When peak_bytes was seen: it fades from then on.';
COMMENT ON COLUMN workers.connections IS 'Its share of the server''s connections, children, heartbeat and listener included.';
COMMENT ON COLUMN workers.previous_id IS 'The worker whose child died before this one started, under the same supervisor.';
COMMENT ON COLUMN workers.claimed_at IS 'When it last asked for work and was answered, as of its last heartbeat.';

-- One row per job that was running when a process died: kept whether the job was to blame or not.
CREATE TABLE job_kills (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    job_id       uuid NOT NULL,
    tenant_id    text NOT NULL,
    type         text NOT NULL,
    worker_id    uuid NOT NULL,
    lease_epoch  bigint NOT NULL,
    verdict      text NOT NULL CONSTRAINT job_kills_verdict CHECK (verdict IN ('guilty', 'suspect')),
    cause        text NOT NULL CONSTRAINT job_kills_cause CHECK (cause IN ('oom', 'signal', 'exit', 'stalled', 'unknown')),
    evidence     jsonb NOT NULL,
    told_at      timestamptz,
    created_at   timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON COLUMN job_kills.evidence IS 'Exit status, memory curve and last log lines of the process that died.';
COMMENT ON COLUMN job_kills.told_at IS 'When the type''s own handler was told (JobType.lost).';
CREATE INDEX job_kills_job ON job_kills (job_id);
CREATE INDEX job_kills_created ON job_kills (created_at DESC);
CREATE INDEX job_kills_untold ON job_kills (created_at) WHERE told_at IS NULL;

CREATE TABLE log_lines (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    at         timestamptz NOT NULL DEFAULT sf_now(),
    worker_id  uuid NOT NULL,
    job_id     uuid,
    level      text NOT NULL,
    line       text NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX log_lines_worker ON log_lines (worker_id, at);
CREATE INDEX log_lines_job ON log_lines (job_id, at) WHERE job_id IS NOT NULL;
CREATE TABLE log_lines_default PARTITION OF log_lines DEFAULT;

-- As sf_history_partitions (0002), for every table that is kept by the day.
CREATE FUNCTION sf_daily_partitions(parent text, days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s'
    AS $$
DECLARE
    start date := (sf_now() AT TIME ZONE 'UTC')::date;
    stamp text := CASE parent WHEN 'job_history' THEN 'completed_at' WHEN 'log_lines' THEN 'at' END;
    made integer := 0;
    day date;
    part text;
    taken boolean;
BEGIN
    IF stamp IS NULL THEN RAISE EXCEPTION '% is not kept by the day', parent; END IF;
    PERFORM pg_advisory_xact_lock(hashtext('sf_daily_partitions'));
    FOR day IN SELECT start + n FROM generate_series(0, least(days, 366)) AS n LOOP
        part := parent || '_' || to_char(day, 'YYYYMMDD');
        IF to_regclass(part) IS NOT NULL THEN CONTINUE; END IF;
        -- Rows that fell into the default partition keep this day there; the next day is free again.
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I WHERE %I >= $1 AND %I < $2)', parent || '_default', stamp, stamp)
            INTO taken USING day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC';
        IF taken THEN CONTINUE; END IF;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
            day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Drops the daily partitions whose day ended more than `kept_days` ago; returns their names.
CREATE FUNCTION sf_drop_partitions(parent text, kept_days integer) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s'
    AS $$
DECLARE
    part text;
BEGIN
    IF parent NOT IN ('job_history', 'log_lines') OR kept_days < 1 THEN
        RAISE EXCEPTION '% is not kept by the day, or % days are too few', parent, kept_days;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('sf_daily_partitions'));
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent::regclass AND c.relname ~ ('^' || parent || '_\d{8}$')
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < (sf_now() AT TIME ZONE 'UTC')::date - kept_days
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', part);
        RETURN NEXT part;
    END LOOP;
END $$;

ALTER TABLE job_kills ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_kills FORCE ROW LEVEL SECURITY;
CREATE POLICY job_kills_owner ON job_kills TO starforge_owner USING (true) WITH CHECK (true);
CREATE POLICY job_kills_operator ON job_kills TO starforge_operator USING (true) WITH CHECK (true);
CREATE POLICY job_kills_engine ON job_kills TO starforge_engine USING (true) WITH CHECK (true);
CREATE POLICY job_kills_app ON job_kills TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON job_kills, log_lines TO starforge_engine, starforge_app, starforge_operator;
REVOKE ALL ON FUNCTION sf_daily_partitions(text, integer), sf_drop_partitions(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sf_daily_partitions(text, integer), sf_drop_partitions(text, integer) TO starforge_engine, starforge_operator;

-- A snapshot that is held by hand is listed as quarantined at once, and no longer when its last hold is released; one
-- that was processed before stays so.                                                                    (O-25, O-26)
CREATE FUNCTION sf_snapshot_held() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NEW.released_at IS NULL THEN
        UPDATE hero_snapshots SET status = 'quarantined', updated_at = sf_now()
        WHERE id = NEW.snapshot_id AND status IN ('received', 'failed');
    ELSE
        UPDATE hero_snapshots SET status = 'received', updated_at = sf_now()
        WHERE id = NEW.snapshot_id AND status = 'quarantined'
          AND NOT EXISTS (SELECT 1 FROM snapshot_quarantine q WHERE q.snapshot_id = NEW.snapshot_id AND q.released_at IS NULL);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER snapshot_quarantine_held AFTER INSERT ON snapshot_quarantine
    FOR EACH ROW WHEN (NEW.snapshot_id IS NOT NULL AND NEW.released_at IS NULL) EXECUTE FUNCTION sf_snapshot_held();
CREATE TRIGGER snapshot_quarantine_released AFTER UPDATE OF released_at ON snapshot_quarantine
    FOR EACH ROW WHEN (NEW.snapshot_id IS NOT NULL AND NEW.released_at IS DISTINCT FROM OLD.released_at)
    EXECUTE FUNCTION sf_snapshot_held();
