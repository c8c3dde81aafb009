-- The tables of examples/fhir/app.py. Run once, as the owner:
--     starforge db psql --role owner -f examples/fhir/tables.sql
--
-- `starforge mapping ddl examples/fhir/app.py` prints the same tables; the indexes here suit the example's queries.
-- What StarForge asks of a table that it writes: tenant_id, and the columns of the mapping with a unique
-- key over those that its `key` names. created_at and updated_at tell a row's first and last change.

BEGIN;

CREATE TABLE patients (
    tenant_id       text NOT NULL,
    id              text NOT NULL,
    family          text,
    given           text[] NOT NULL DEFAULT '{}',
    gender          text,
    birth_date      date,
    deceased_at     timestamptz,
    marital_status  text,
    city            text,
    state           text,
    extra           jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT sf_now(),
    updated_at      timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE encounters (
    tenant_id   text NOT NULL,
    id          text NOT NULL,
    patient_id  text NOT NULL,
    status      text NOT NULL,
    class       text,
    code        text,
    display     text,
    started_at  timestamptz,
    ended_at    timestamptz,
    extra       jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT sf_now(),
    updated_at  timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, patient_id) REFERENCES patients (tenant_id, id)
);
CREATE INDEX encounters_patient ON encounters (tenant_id, patient_id, started_at);

CREATE TABLE conditions (
    tenant_id            text NOT NULL,
    id                   text NOT NULL,
    patient_id           text NOT NULL,
    encounter_id         text,
    clinical_status      text,
    verification_status  text,
    code                 text,
    display              text,
    onset_at             timestamptz,
    abated_at            timestamptz,
    recorded_at          timestamptz,
    extra                jsonb NOT NULL DEFAULT '{}',
    created_at           timestamptz NOT NULL DEFAULT sf_now(),
    updated_at           timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, patient_id) REFERENCES patients (tenant_id, id),
    FOREIGN KEY (tenant_id, encounter_id) REFERENCES encounters (tenant_id, id)
);
CREATE INDEX conditions_patient ON conditions (tenant_id, patient_id, onset_at);

CREATE TABLE observations (
    tenant_id      text NOT NULL,
    id             text NOT NULL,
    patient_id     text NOT NULL,
    encounter_id   text,
    status         text NOT NULL,
    category       text,
    code           text,
    display        text,
    effective_at   timestamptz,
    issued_at      timestamptz,
    value          double precision,
    unit           text,
    value_code     text,
    value_display  text,
    components     jsonb NOT NULL DEFAULT '[]',
    extra          jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT sf_now(),
    updated_at     timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, patient_id) REFERENCES patients (tenant_id, id),
    FOREIGN KEY (tenant_id, encounter_id) REFERENCES encounters (tenant_id, id)
);
CREATE INDEX observations_patient ON observations (tenant_id, patient_id, code, effective_at);

CREATE TABLE medication_requests (
    tenant_id            text NOT NULL,
    id                   text NOT NULL,
    patient_id           text NOT NULL,
    encounter_id         text,
    reason_condition_id  text,
    status               text NOT NULL,
    intent               text NOT NULL,
    code                 text,
    display              text,
    authored_at          timestamptz,
    dosage               jsonb NOT NULL DEFAULT '[]',
    extra                jsonb NOT NULL DEFAULT '{}',
    created_at           timestamptz NOT NULL DEFAULT sf_now(),
    updated_at           timestamptz NOT NULL DEFAULT sf_now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, patient_id) REFERENCES patients (tenant_id, id),
    FOREIGN KEY (tenant_id, encounter_id) REFERENCES encounters (tenant_id, id),
    FOREIGN KEY (tenant_id, reason_condition_id) REFERENCES conditions (tenant_id, id)
);
CREATE INDEX medication_requests_patient ON medication_requests (tenant_id, patient_id, authored_at);

-- Workers and the web see the rows of the tenant they speak for; operators and the owner see all.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['patients', 'encounters', 'conditions', 'observations', 'medication_requests'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_owner, starforge_operator USING (true) WITH CHECK (true)',
            t || '_all', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine, starforge_app'
            ' USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t || '_tenant', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;

COMMIT;
