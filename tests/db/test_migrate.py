"""Migrations: once, in order, safe under races, and honest about what code they serve."""

from __future__ import annotations

import asyncio

import pytest

from starforge.db import migrate as m
from starforge.db.errors import MigrationChangedError, SchemaVersionError
from starforge.db.pool import Connection, connect
from tests.postgres import TestServer


async def _empty(server: TestServer, name: str) -> str:
    admin = await connect(server.url())
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    return server.url(name)


async def test_two_processes_that_migrate_at_once_apply_each_migration_once(server: TestServer) -> None:
    url = await _empty(server, "race")
    one, two = await connect(url), await connect(url)
    done = await asyncio.gather(m.migrate(one), m.migrate(two))
    assert sorted(x.number for part in done for x in part) == [x.number for x in m.migrations()]
    assert [row.number for row in await m.applied(one)] == [x.number for x in m.migrations()]
    assert await m.migrate(two) == []
    await one.close()
    await two.close()


async def test_databases_of_one_server_that_are_migrated_at_once_get_their_roles(server: TestServer) -> None:
    """The roles are the server's, and no lock of one database keeps another's migration from them."""
    urls = [await _empty(server, f"cluster_{number}") for number in range(4)]
    conns = [await connect(url) for url in urls]
    done = await asyncio.gather(*(m.migrate(conn) for conn in conns))
    assert [len(part) for part in done] == [len(m.migrations())] * 4
    for conn in conns:
        await conn.close()


async def test_a_changed_old_migration_is_refused_and_nothing_is_applied(server: TestServer) -> None:
    url = await _empty(server, "changed")
    conn = await connect(url)
    await m.migrate(conn, m.migrations()[:2])
    changed = [
        m.Migration(x.number, x.name, x.text + ("-- later" if x.number == 1 else ""), x.serves_from)
        for x in m.migrations()
    ]
    with pytest.raises(MigrationChangedError, match="0001_foundation"):
        await m.migrate(conn, changed)
    assert len(await m.applied(conn)) == 2
    await conn.close()


async def test_a_failing_migration_leaves_the_ones_before_it_and_nothing_of_itself(
    server: TestServer,
) -> None:
    url = await _empty(server, "failing")
    conn = await connect(url)
    bad = m.parse("0002_bad.sql", "-- phase: expand\nCREATE TABLE half (id int);\nSELECT 1 / 0;")
    with pytest.raises(Exception, match="division by zero"):
        await m.migrate(conn, [m.migrations()[0], bad])
    assert [row.number for row in await m.applied(conn)] == [1]
    assert await conn.fetchval("SELECT to_regclass('half')") is None
    await conn.close()


def test_an_expanding_migration_may_not_drop_what_old_workers_read() -> None:
    with pytest.raises(ValueError, match="DROP COLUMN"):
        m.parse("0009_x.sql", "-- phase: expand\nALTER TABLE queue_jobs DROP COLUMN kills;")
    assert m.parse("0009_x.sql", "-- phase: contract 9\nALTER TABLE t DROP COLUMN c;").serves_from == 9


@pytest.mark.parametrize(
    ("version", "serves_from", "knows", "told"),
    [
        (3, 0, 7, r"schema is at version 3 and a worker needs 7 or newer: run `starforge migrate`"),
        (9, 9, 7, r"serves code that knows 9 or newer; a worker knows 7: deploy a newer StarForge"),
    ],
)
def test_a_worker_refuses_a_schema_that_it_cannot_serve_in_one_sentence(
    version: int, serves_from: int, knows: int, told: str
) -> None:
    have = [m.Applied(version, "x", "", serves_from)]
    with pytest.raises(SchemaVersionError, match=told) as refused:
        m.serves(have, knows, needs=7, what="a worker")
    assert "\n" not in str(refused.value)


def test_a_worker_goes_on_with_a_newer_schema_that_only_expanded() -> None:
    assert m.serves([m.Applied(12, "x", "", 0)], 7, needs=7, what="a worker") == 12


async def test_the_shipped_schema_serves_the_shipped_code(conn: Connection) -> None:
    assert await m.check_version(conn) == m.code_version()
