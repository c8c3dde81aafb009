-- access: row security and grants of the four roles.                                           (X-12, G11)
-- phase: expand

-- app: its tenant's rows. engine: every row of the engine's tables, of data tables only the job's tenant.
-- operator and owner: all rows, by a policy of their own (BYPASSRLS would need a superuser).
DO $$
DECLARE
    engine_tables text[] := ARRAY['queue_jobs', 'job_history', 'queue_jobs_dlq', 'hero_snapshots', 'snapshot_captures',
        'etl_errors', 'snapshot_quarantine', 'backfill_jobs', 'backfill_partitions', 'audit_logs', 'operation_plans'];
    data_tables text[] := ARRAY['entity_seen', 'users', 'guilds', 'guild_members', 'user_troops', 'user_pets',
        'user_artifacts', 'user_teams', 'user_profile_summary'];
    shared_tables text[] := ARRAY['feature_flags', 'workers', 'gates', 'troop_catalog', 'pet_catalog', 'artifact_catalog'];
    t text;
BEGIN
    FOREACH t IN ARRAY engine_tables || data_tables || ARRAY['api_tokens'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_owner USING (true) WITH CHECK (true)', t || '_owner', t);
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_operator USING (true) WITH CHECK (true)', t || '_operator', t);
    END LOOP;
    FOREACH t IN ARRAY engine_tables LOOP
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine USING (true) WITH CHECK (true)', t || '_engine', t);
    END LOOP;
    FOREACH t IN ARRAY data_tables LOOP
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_engine USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t || '_engine', t);
    END LOOP;
    FOREACH t IN ARRAY engine_tables || data_tables LOOP
        EXECUTE format('CREATE POLICY %I ON %I TO starforge_app USING (tenant_id = sf_tenant()) WITH CHECK (tenant_id = sf_tenant())', t || '_app', t);
    END LOOP;
    -- A request's tenant is known only once its token was found, so the app reads tokens of all tenants.
    CREATE POLICY api_tokens_app_reads ON api_tokens FOR SELECT TO starforge_app USING (true);
    CREATE POLICY api_tokens_app_marks ON api_tokens FOR UPDATE TO starforge_app USING (true) WITH CHECK (true);

    FOREACH t IN ARRAY engine_tables || data_tables || shared_tables LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO starforge_engine, starforge_app, starforge_operator', t);
    END LOOP;
END $$;

REVOKE UPDATE, DELETE, TRUNCATE ON audit_logs FROM starforge_engine, starforge_app, starforge_operator;
GRANT SELECT ON backfill_moves TO starforge_engine, starforge_app, starforge_operator;
GRANT SELECT ON api_tokens TO starforge_app;
GRANT UPDATE (last_used_at) ON api_tokens TO starforge_app;
REVOKE ALL ON FUNCTION sf_history_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sf_history_partitions(integer) TO starforge_engine, starforge_operator;

-- The runner made this table before the first migration.
GRANT SELECT ON schema_migrations TO starforge_engine, starforge_app, starforge_operator;
