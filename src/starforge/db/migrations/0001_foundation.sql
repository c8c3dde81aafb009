-- foundation: the clock, the tenant and the flags that everything else leans on.
-- phase: expand

-- The database's clock. Tests replace this function (only its owner may) to move time; in production it
-- inlines to statement_timestamp(), so that it costs nothing and stays in index conditions.
CREATE FUNCTION sf_now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT statement_timestamp()';

-- The tenant a transaction speaks for: SET LOCAL starforge.tenant_id, else 'default'.
CREATE FUNCTION sf_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(nullif(current_setting('starforge.tenant_id', true), ''), 'default') $$;

CREATE TABLE feature_flags (
    name        text PRIMARY KEY,
    data        jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    updated_at  timestamptz NOT NULL DEFAULT sf_now()
);
COMMENT ON TABLE feature_flags IS 'Switches that operators may also set by hand; ingest_control pauses ingestion (Q-29).';

-- A flag set by hand (Q-SQL-6) does not touch updated_at; what reads it must know when it was set last.
CREATE FUNCTION sf_stamp() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_at := sf_now();
    RETURN NEW;
END $$;
CREATE TRIGGER feature_flags_stamp BEFORE UPDATE ON feature_flags
    FOR EACH ROW EXECUTE FUNCTION sf_stamp();

INSERT INTO feature_flags (name, data) VALUES ('ingest_control', '{"ingest_paused": false}');
