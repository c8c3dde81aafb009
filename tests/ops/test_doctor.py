"""The doctor: what is fit is said to be, and what is not comes with how to mend it."""

from __future__ import annotations

import pytest

from starforge.db import migrate as m
from starforge.db.pool import connect
from starforge.ops.doctor import CHECKS, Finding, examine
from tests.covers import covers
from tests.pgbouncer import pgbouncer
from tests.postgres import TestServer


@pytest.fixture(autouse=True)
def room_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else lies on the disk of whoever runs the tests is no finding."""
    monkeypatch.setenv("STARFORGE_DISK_FREE_MB_MIN", "10")


async def found(url: str, *, embedded: bool = False) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(url, embedded=embedded)}


async def _empty(database: str) -> str:
    """Take everything out of the test's own database."""
    conn = await connect(database)
    await conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await conn.close()
    return database


async def test_a_fresh_deployment_is_fit_but_for_the_fsync_that_test_servers_go_without(
    database: str,
) -> None:
    findings = await found(database)
    assert list(findings) == ["disk", "object store", *CHECKS]
    assert {check: finding.state for check, finding in findings.items()} == {
        **dict.fromkeys(findings, "ok"),
        "connection": "warning",
    }
    assert findings["migrations"].found == f"schema {m.code_version()}, code {m.code_version()}"
    assert findings["pooler"].found == "direct connection"
    assert all(finding.mend for finding in findings.values() if finding.state != "ok")


@covers("F-37", "Q-29")
async def test_what_is_paused_is_a_warning_with_the_command_that_ends_it(database: str) -> None:
    conn = await connect(database)
    await conn.execute('UPDATE feature_flags SET data = \'{"sources": {"shop": {"reason": "odd"}}}\'')
    finding = (await found(database))["ingestion"]
    assert (finding.state, finding.mend) == ("warning", "starforge source resume NAME")
    assert finding.found == "source 'shop' is paused: odd (set by hand, with no end)"
    await conn.execute("UPDATE feature_flags SET data = data || '{\"ingest_paused\": true}'")
    finding = (await found(database))["ingestion"]
    assert (finding.state, finding.mend) == ("warning", "starforge ingest resume")
    await conn.close()


async def test_every_switch_that_lets_accepted_jobs_be_lost_is_named_and_no_other(database: str) -> None:
    conn = await connect(database)
    await conn.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET synchronous_commit = on")
    await conn.close()
    connection = (await found(database))["connection"]
    assert connection.found.endswith("; fsync, full_page_writes off: accepted jobs do not survive a crash")
    assert connection.mend == "Set fsync and full_page_writes = on in postgresql.conf and reload."


@pytest.mark.parametrize(
    ("embedded", "mend"),
    [(False, "starforge migrate"), (True, "starforge migrate (or starforge up, which does it)")],
)
async def test_a_database_that_was_never_migrated_is_a_fault_with_the_command_that_does_it(
    database: str, embedded: bool, mend: str
) -> None:
    migrations = (await found(await _empty(database), embedded=embedded))["migrations"]
    assert migrations == Finding("migrations", "fault", "this database was never migrated", mend)


async def test_a_schema_too_old_for_the_code_is_a_fault(database: str) -> None:
    conn = await connect(await _empty(database))
    await m.migrate(conn, m.migrations()[:2])
    await conn.close()
    migrations = (await found(database))["migrations"]
    assert migrations.state == "fault"
    assert "the schema is at version 2 and this StarForge needs" in migrations.found
    assert "starforge migrate" in migrations.mend


async def test_an_applied_migration_that_has_changed_is_a_fault(database: str) -> None:
    conn = await connect(database)
    await conn.execute("UPDATE schema_migrations SET checksum = 'another' WHERE number = 1")
    await conn.close()
    migrations = (await found(database))["migrations"]
    assert (migrations.state, "0001_foundation" in migrations.found) == ("fault", True)


async def test_a_schema_that_newer_code_has_only_expanded_is_fit(database: str) -> None:
    conn = await connect(database)
    await conn.execute(
        "INSERT INTO schema_migrations (number, name, checksum, duration_ms) VALUES (999, 'later', '', 0)"
    )
    await conn.close()
    assert (await found(database))["migrations"].state == "ok"


async def test_an_unreachable_database_is_a_fault_after_which_nothing_is_asked() -> None:
    findings = await found("postgresql://ann:hunter2@127.0.0.1:1/x")
    assert list(findings) == ["disk", "object store", "connection"]
    assert findings["connection"].state == "fault"
    assert "postgresql://ann@127.0.0.1:1/x cannot be reached" in findings["connection"].found
    assert "hunter2" not in repr(findings)


async def test_a_login_without_rights_is_told_which_check_failed_and_the_others_go_on(
    database: str, server: TestServer
) -> None:
    conn = await connect(database)
    await conn.execute("CREATE ROLE stranger LOGIN")
    try:
        findings = await found(server.url(database.rpartition("/")[2], user="stranger"))
    finally:
        await conn.execute("DROP ROLE stranger")
        await conn.close()
    assert list(findings) == ["disk", "object store", *CHECKS]
    assert findings["migrations"].state == "fault"
    assert "permission denied for table schema_migrations" in findings["migrations"].found
    assert "starforge db url" in findings["migrations"].mend


async def test_under_enforced_tenancy_a_login_that_a_worker_would_refuse_is_a_fault(
    database: str, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_TENANCY", "enforced")
    roles = (await found(database))["roles"]
    assert (roles.state, "tester, which is a superuser" in roles.found) == ("fault", True)
    bound = server.url(database.rpartition("/")[2], user="starforge_engine")
    roles = (await found(bound))["roles"]
    assert (roles.state, roles.found) == (
        "ok",
        "all four exist; this login is starforge_engine; tenancy enforced",
    )
    # The embedded server's workers have logins of their own, which are not the doctor's.
    assert (await found(database, embedded=True))["roles"].state == "ok"


async def test_a_pool_that_the_servers_connections_cannot_hold_is_a_fault_with_the_arithmetic(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test server has 100 connections, 3 of them reserved."""
    monkeypatch.setenv("PG_POOL_MAX", "78")
    budget = (await found(database))["connection budget"]
    assert budget.state == "fault"
    assert "100 - reserved 3 - headroom 20 = 77; / PG_POOL_MAX 78 = 0 workers" in budget.found
    monkeypatch.setenv("PG_POOL_MAX", "77")
    assert "= 1 workers" in (await found(database))["connection budget"].found
    monkeypatch.setenv("PG_POOL_MAX", "2")
    monkeypatch.setenv("STARFORGE_CONNECTION_HEADROOM", "95")
    busy = [await connect(database) for _ in range(3)]
    assert (await found(database))["connection budget"].state == "warning"
    for conn in busy:
        await conn.close()


@pytest.mark.parametrize(("least_mb", "state"), [(10, "ok"), (10**12, "fault")])
async def test_a_full_disk_is_a_fault(monkeypatch: pytest.MonkeyPatch, least_mb: int, state: str) -> None:
    monkeypatch.setenv("STARFORGE_DISK_FREE_MB_MIN", str(least_mb))
    disk = (await found("postgresql://ann@127.0.0.1:1/x"))["disk"]
    assert disk.state == state
    assert ("STARFORGE_HOME" in disk.mend) == (state == "fault")


@pytest.mark.system("pgbouncer")
async def test_a_pooler_is_noticed_and_what_it_costs_is_said(database: str, server: TestServer) -> None:
    with pgbouncer(server) as port:
        findings = await found(f"postgresql://tester:hunter2@127.0.0.1:{port}/{database.rpartition('/')[2]}")
    assert findings["pooler"].state == "ok"
    assert "statement cache and listener are off" in findings["pooler"].found
    assert f"postgresql://tester@127.0.0.1:{port}/" in findings["pooler"].mend
    assert "hunter2" not in repr(findings)
    assert findings["migrations"].state == "ok"
