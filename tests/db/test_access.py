"""Row security: what each role sees and may write of every table that belongs to tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from starforge.db.errors import RoleUnsafeError
from starforge.db.pool import Connection, require_bound_role, set_tenant
from tests.covers import covers

ROWS = {
    "queue_jobs": "(tenant_id, type) VALUES (TENANT, 't')",
    "job_history": """(tenant_id, id, queue, type, payload, priority, status, attempts, max_attempts,
        run_after, lease_epoch, created_at, completed_at)
        VALUES (TENANT, gen_random_uuid(), 'q', 't', '{}', 0, 'completed', 0, 5, now(), 1, now(), now())""",
    "queue_jobs_dlq": """(tenant_id, original_job_id, type, payload, reason)
        VALUES (TENANT, gen_random_uuid(), 't', '{}', 'r')""",
    "job_keys": "(tenant_id, type, key, job_id, states) VALUES (TENANT, 't', 'k', gen_random_uuid(), '{}')",
    "job_progress": "(tenant_id, job_id, lease_epoch) VALUES (TENANT, gen_random_uuid(), 1)",
    "job_kills": """(tenant_id, job_id, type, worker_id, lease_epoch, verdict, cause, evidence)
        VALUES (TENANT, gen_random_uuid(), 't', gen_random_uuid(), 1, 'guilty', 'oom', '{}')""",
    "schedules": "(tenant_id, name, type, cron, next_at) VALUES (TENANT, TENANT, 't', '* * * * *', now())",
    "hero_snapshots": "(tenant_id, source, raw, size_bytes, sha256) VALUES (TENANT, 'hero', '{}', 2, '')",
    "snapshot_captures": """(tenant_id, snapshot_id, source, captured_at)
        SELECT TENANT, id, 'hero', now() FROM hero_snapshots WHERE tenant_id = TENANT""",
    "entity_seen": """(tenant_id, source, subject, entity, captured_at)
        VALUES (TENANT, 'hero', 's', 'users', now())""",
    "ingest_keys": """(tenant_id, client, key, fingerprint, answer, expires_at)
        VALUES (TENANT, 'ann', 'k', '', '{}', now())""",
    "etl_errors": "(tenant_id, error_type, message) VALUES (TENANT, 'UNKNOWN', 'm')",
    "snapshot_quarantine": "(tenant_id, bytes, reason) VALUES (TENANT, '', 'r')",
    "snapshot_entities": """(tenant_id, snapshot_id, entity, captured_at, status)
        SELECT TENANT, id, 'users', now(), 'written' FROM hero_snapshots WHERE tenant_id = TENANT""",
    "snapshot_holds": """(tenant_id, quarantine_id, snapshot_id, source, catalogue, key_column, missing)
        SELECT TENANT, id, gen_random_uuid(), 'hero', 'troop_catalog', 'id', '{1}'
        FROM snapshot_quarantine WHERE tenant_id = TENANT""",
    "source_modes": """(tenant_id, source, mode, owner, reason, expires_at)
        VALUES (TENANT, 'hero', 'strict', 'ann', 'r', now())""",
    "source_shapes": "(tenant_id, source, fingerprint, new_paths) VALUES (TENANT, 'hero', 'f', '{}')",
    "retention_rules": """(tenant_id, kind, days, owner, reason)
        VALUES (TENANT, 'errors', 1, 'ann', 'r')""",
    "dropped_objects": "(tenant_id, raw_key) VALUES (TENANT, TENANT)",
    "users": "(tenant_id, namecode) VALUES (TENANT, 'n')",
    "guilds": "(tenant_id, external_id) VALUES (TENANT, 1)",
    "guild_members": """(tenant_id, user_id, guild_id) SELECT TENANT, u.id, g.id
        FROM users AS u JOIN guilds AS g USING (tenant_id) WHERE tenant_id = TENANT""",
    "user_troops": "(tenant_id, user_id, troop_id) SELECT TENANT, id, 1 FROM users WHERE tenant_id = TENANT",
    "user_pets": "(tenant_id, user_id, pet_id) SELECT TENANT, id, 1 FROM users WHERE tenant_id = TENANT",
    "user_artifacts": """(tenant_id, user_id, artifact_id)
        SELECT TENANT, id, 1 FROM users WHERE tenant_id = TENANT""",
    "user_teams": "(tenant_id, user_id, position) SELECT TENANT, id, 0 FROM users WHERE tenant_id = TENANT",
    "user_profile_summary": "(tenant_id, user_id) SELECT TENANT, id FROM users WHERE tenant_id = TENANT",
    "backfill_jobs": "(tenant_id, asset_name) VALUES (TENANT, 'a')",
    "backfill_partitions": """(tenant_id, backfill_job_id, partition_key)
        SELECT TENANT, id, 'k' FROM backfill_jobs WHERE tenant_id = TENANT""",
    "backfill_ended": """(tenant_id, backfill_job_id, ordinal, outcome, attempt_count)
        SELECT TENANT, id, 0, 'failed', 1 FROM backfill_jobs WHERE tenant_id = TENANT""",
    "backfill_poison": """(tenant_id, backfill_job_id, row_key, asset_name, ordinal, error_type,
        error_message) SELECT TENANT, id, 1, 'a', 0, 'E', 'm' FROM backfill_jobs WHERE tenant_id = TENANT""",
    "backfill_made": """(tenant_id, asset_name, ordinal, partition_key, completed_at)
        VALUES (TENANT, 'a', 0, 'k', now())""",
    "audit_logs": "(tenant_id, actor, role, operation) VALUES (TENANT, 'ann', 'operator', 'queue pause')",
    "operation_plans": """(tenant_id, id, actor, operation, arguments, fingerprint, change, expires_at)
        VALUES (TENANT, gen_random_uuid(), 'ann', 'queue pause', '{}', 'f', '{}', now())""",
    "api_tokens": "(tenant_id, name, role, hash) VALUES (TENANT, 'n', 'viewer', sha256(TENANT))",
}
"""Table → how TENANT gets a row of it; a table that is missing here fails the first test."""

DATA = {
    "entity_seen", "users", "guilds", "guild_members", "user_troops", "user_pets", "user_artifacts",
    "user_teams", "user_profile_summary",
}  # fmt: skip
"""What handlers write for a tenant. The rest are the engine's own tables, of which it sees every row."""

TENANTS = ("acme", "bolt")

OF_TENANTS = """
SELECT c.oid::regclass::text AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       c.relispartition AS partition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname = 'public'
  AND EXISTS (SELECT 1 FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
"""


@pytest.fixture
async def rows(conn: Connection) -> Connection:
    """A row of each tenant in every table that has tenants."""
    for catalogue in ("troop_catalog", "pet_catalog", "artifact_catalog"):
        await conn.execute(f"INSERT INTO {catalogue} (id) VALUES (1)")
    for table in ROWS:
        for tenant in TENANTS:
            await conn.execute(_insert(table, tenant))
    return conn


def _insert(table: str, tenant: str) -> str:
    return f"INSERT INTO {table} " + ROWS[table].replace("TENANT", f"'{tenant}'")


@asynccontextmanager
async def acting(conn: Connection, role: str, tenant: str | None = None) -> AsyncIterator[None]:
    """Be a role, speaking for a tenant, for the length of a `with` block."""
    await set_tenant(conn, tenant or "")
    await conn.execute(f"SET LOCAL ROLE {role}")
    yield
    await conn.execute("RESET ROLE")
    await set_tenant(conn, "")


async def seen(conn: Connection, table: str) -> set[str]:
    """Return the tenants of whom the current role sees rows."""
    return {row[0] for row in await conn.fetch(f"SELECT DISTINCT tenant_id FROM {table}")}


async def refused(conn: Connection, statement: str) -> bool:
    """Tell whether a statement is refused for lack of a right; what it did is undone either way."""
    savepoint = conn.transaction()
    await savepoint.start()
    try:
        await conn.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    finally:
        await savepoint.rollback()
    return False


@covers("X-12", "B-70")
async def test_every_table_with_a_tenant_forces_row_security_even_on_its_owner(conn: Connection) -> None:
    tables = {row["name"]: row for row in await conn.fetch(OF_TENANTS)}
    assert {name for name, row in tables.items() if not row["partition"]} == set(ROWS)
    for name, row in tables.items():
        if not row["partition"]:
            assert (row["enabled"], row["forced"]) == (True, True), name


async def test_a_partition_cannot_be_reached_past_the_policies_of_its_table(conn: Connection) -> None:
    await conn.execute("SELECT sf_history_partitions(3)")
    partitions = [row["name"] for row in await conn.fetch(OF_TENANTS) if row["partition"]]
    assert len(partitions) > 2
    for name in partitions:
        for role in ("starforge_engine", "starforge_app", "starforge_operator"):
            rights = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
            assert not await conn.fetchval("SELECT has_table_privilege($1, $2, $3)", role, name, rights), name


@covers("X-12", "B-70")
async def test_the_app_of_one_tenant_sees_nothing_of_another_in_any_table(rows: Connection) -> None:
    async with acting(rows, "starforge_app", "acme"):
        found = {table: await seen(rows, table) for table in ROWS if table != "api_tokens"}
    assert found == {table: {"acme"} for table in found}


@covers("X-12")
async def test_the_app_without_a_tenant_speaks_for_the_default_one_and_sees_no_other(
    rows: Connection,
) -> None:
    async with acting(rows, "starforge_app"):
        found = {table: await seen(rows, table) for table in ROWS if table != "api_tokens"}
    assert found == {table: set() for table in found}


@pytest.mark.parametrize("role", ["starforge_app", "starforge_engine"])
@covers("X-12", "B-70")
async def test_no_row_can_be_given_to_taken_from_or_removed_from_another_tenant(
    rows: Connection, role: str
) -> None:
    bound = DATA if role == "starforge_engine" else set(ROWS) - {"api_tokens"}
    async with acting(rows, role, "acme"):
        for table in sorted(bound - {"audit_logs"}):
            gift = f"UPDATE {table} SET tenant_id = 'bolt'"
            assert await refused(rows, gift), f"{table}: a row was given away"
            for verb in (f"UPDATE {table} SET tenant_id = 'acme'", f"DELETE FROM {table}"):
                savepoint = rows.transaction()
                await savepoint.start()
                told = await rows.execute(f"{verb} WHERE tenant_id = 'bolt'")
                await savepoint.rollback()
                assert told.endswith(" 0"), f"{table}: {verb} reached another tenant"
        for table in ("users", "guilds", "entity_seen"):
            assert await refused(rows, _insert(table, "corp")), f"{table}: a row was made for another tenant"


@covers("X-12")
async def test_the_engine_sees_all_of_its_own_tables_and_of_the_data_only_the_jobs_tenant(
    rows: Connection,
) -> None:
    async with acting(rows, "starforge_engine", "acme"):
        found = {table: await seen(rows, table) for table in ROWS if table != "api_tokens"}
        assert await refused(rows, "SELECT FROM api_tokens")
    assert {table for table, tenants in found.items() if tenants == {"acme"}} == DATA
    assert {table for table, tenants in found.items() if tenants == set(TENANTS)} == set(found) - DATA


@covers("X-12", "X-13")
async def test_the_operator_sees_every_tenant_whichever_it_speaks_for(rows: Connection) -> None:
    async with acting(rows, "starforge_operator", "acme"):
        found = {table: await seen(rows, table) for table in ROWS if table != "api_tokens"}
        assert await refused(rows, "SELECT FROM api_tokens")
    assert found == {table: set(TENANTS) for table in found}


async def test_the_owner_sees_every_tenant_though_row_security_is_forced_on_it(rows: Connection) -> None:
    async with acting(rows, "starforge_owner", "acme"):
        found = {table: await seen(rows, table) for table in ROWS}
    assert found == {table: set(TENANTS) for table in found}


@covers("X-12")
async def test_the_app_reads_tokens_of_all_tenants_and_changes_nothing_but_when_they_were_used(
    rows: Connection,
) -> None:
    """A request's tenant is known only once its token was found."""
    async with acting(rows, "starforge_app", "acme"):
        assert await seen(rows, "api_tokens") == set(TENANTS)
        assert await rows.execute("UPDATE api_tokens SET last_used_at = now()") == "UPDATE 2"
        for change in ("role = 'admin'", "tenant_id = 'acme'", "hash = sha256('x')", "revoked_at = NULL"):
            assert await refused(rows, f"UPDATE api_tokens SET {change}"), change
        assert await refused(rows, "DELETE FROM api_tokens")
        assert await refused(rows, "INSERT INTO api_tokens (name, role, hash) VALUES ('x', 'admin', '')")


@pytest.mark.parametrize(
    "role", ["starforge_app", "starforge_engine", "starforge_operator", "starforge_owner"]
)
@covers("X-05")
async def test_no_role_can_change_or_remove_what_the_audit_log_says(rows: Connection, role: str) -> None:
    async with acting(rows, role, "acme"):
        for statement in (
            "UPDATE audit_logs SET actor = 'x'",
            "DELETE FROM audit_logs",
            "TRUNCATE audit_logs",
        ):
            assert await refused(rows, statement), statement


@pytest.mark.parametrize("role", ["starforge_app", "starforge_engine", "starforge_operator"])
async def test_no_role_but_the_owner_can_move_the_clock_or_change_the_schema(
    conn: Connection, role: str
) -> None:
    async with acting(conn, role):
        for statement in (
            "CREATE OR REPLACE FUNCTION sf_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now()'",
            "CREATE TABLE mine (id integer)",
            "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
            "DROP POLICY users_app ON users",
            "UPDATE schema_migrations SET checksum = ''",
        ):
            assert await refused(conn, statement), statement
    assert not await conn.fetchval("SELECT pg_has_role($1, 'starforge_owner', 'MEMBER')", role)


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        ("tester", "is a superuser"),
        ("starforge_owner", "owns the tables"),
        ("above_the_law", "has BYPASSRLS"),
        ("owners_friend", "owns the tables"),
    ],
)
@covers("X-12")
async def test_under_enforced_tenancy_a_role_that_no_policy_binds_is_refused(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, role: str, fault: str
) -> None:
    await conn.execute(
        "CREATE ROLE above_the_law BYPASSRLS; CREATE ROLE owners_friend IN ROLE starforge_owner"
    )
    async with acting(conn, role):
        await require_bound_role(conn, "this worker")
        monkeypatch.setenv("STARFORGE_TENANCY", "enforced")
        with pytest.raises(RoleUnsafeError, match=f"this worker runs as {role}, which .*{fault}"):
            await require_bound_role(conn, "this worker")


@pytest.mark.parametrize("role", ["starforge_engine", "starforge_app", "starforge_operator"])
@covers("X-12")
async def test_under_enforced_tenancy_the_roles_of_a_deployment_pass(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("STARFORGE_TENANCY", "enforced")
    async with acting(conn, role):
        await require_bound_role(conn, "this worker")
