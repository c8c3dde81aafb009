"""Fixtures: a real Postgres per session, a clean database or a rolled-back transaction per test."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from starforge.db.migrate import migrate
from starforge.db.pool import Connection, Pool, connect
from tests.pgbouncer import pgbouncer
from tests.postgres import DEBIAN_15, TestServer

pytest_plugins = ["starforge.testing"]

SHARED = Path(__file__).parents[2] / "shared"

PROGRAMS: dict[str, Path | str] = {
    "postgresql": DEBIAN_15 / "postgres",
    "chromium": "chromium",
    "prometheus": "promtool",
    "pgbouncer": "pgbouncer",
    "redis-server": "redis-server",
    "faketime": "faketime",
    "curl": "curl",
}
"""Debian package → the program whose presence shows it."""


def _installed(package: str) -> bool:
    program = PROGRAMS[package]
    if isinstance(program, Path):
        return program.exists()
    return (shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")) is not None


collect_ignore = [] if os.environ.get("STARFORGE_TORTURE") == "1" else ["torture"]
"""`make torture` takes minutes, and is no part of `make test`."""

POOLER_ENV = "STARFORGE_TEST_POOLER"
"""Set to 1, the tests' databases are reached through a PgBouncer in transaction mode."""

POOLER_SIZE = 8
"""Server connections per database and user: as many as a test holds transactions open at once."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without looking for garbage: nothing is, and the looking takes half of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = getattr(item, "fixturenames", ())
        if {"server", "database", "pool", "conn"} & set(names):
            item.add_marker("db")
        if {"bucket_server", "azure_server"} & set(names):
            item.add_marker("server")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("system"):
        for package in mark.args:
            if not _installed(package):
                _absent(
                    f"Debian package {package} is missing: make system-packages", "STARFORGE_REQUIRE_SYSTEM"
                )
    direct = item.get_closest_marker("direct")
    if direct is not None and os.environ.get(POOLER_ENV) == "1":
        pytest.skip(f"not through a pooler: {direct.args[0]}")
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        _absent(
            f"the documents of ../shared are not here: {SHARED.name} is absent", "STARFORGE_REQUIRE_SHARED"
        )


def _absent(line: str, requirement: str) -> None:
    if os.environ.get(requirement) == "1":
        pytest.fail(f"{line} ({requirement}=1)", pytrace=False)
    pytest.skip(line)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads the settings or the home of the person who runs it."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if name in ("DATABASE_URL", "STARFORGE_HOME")}
    for name in kept:
        del os.environ[name]
    os.environ["STARFORGE_HOME"] = str(home)
    yield home
    del os.environ["STARFORGE_HOME"]
    os.environ.update(kept)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of documents beside the checkout; mark the test `shared` as well."""
    return SHARED


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    """The session's Postgres; STARFORGE_TEST_POSTGRES=15 takes Debian's, 18 (default) the wheel's."""
    version = os.environ.get("STARFORGE_TEST_POSTGRES", "18")
    try:
        started = TestServer(version)
    except FileNotFoundError:
        _absent("Debian package postgresql is missing: make system-packages", "STARFORGE_REQUIRE_SYSTEM")
        raise
    asyncio.run(_make_template(started))
    yield started
    started.stop()


async def _make_template(server: TestServer) -> None:
    admin = await connect(server.url())
    await admin.execute("CREATE DATABASE template_starforge")
    await admin.close()
    conn = await connect(server.url("template_starforge"))
    await migrate(conn)
    await conn.execute("SELECT sf_history_partitions(2)")
    await conn.close()


@pytest.fixture(scope="session")
def door(server: TestServer) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a database: the server's, or a PgBouncer's in transaction mode before it."""
    if os.environ.get(POOLER_ENV) != "1":
        yield server.url
        return
    if not _installed("pgbouncer"):
        _absent("Debian package pgbouncer is missing: make system-packages", "STARFORGE_REQUIRE_SYSTEM")
    with pgbouncer(server, pool_size=POOLER_SIZE) as port:
        yield lambda name: server.url(name).replace(f":{server.port}/", f":{port}/")


@pytest.fixture
async def database(server: TestServer, door: Callable[[str], str]) -> AsyncIterator[str]:
    """The URL of a migrated database of the test's own, as a superuser; dropped afterwards."""
    name = f"t_{uuid4().hex}"
    admin = await connect(server.url())
    # A copy of the files costs a fifth less than the default, which reads and logs every page.
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template_starforge STRATEGY file_copy")
    yield door(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def listener(server: TestServer, database: str) -> AsyncIterator[Connection]:
    """A connection to the test's database itself, past any pooler: through one nobody hears anything."""
    opened = await connect(server.url(database.rpartition("/")[2]))
    yield opened
    await opened.close()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """A pool of 8 connections to the test's own database."""
    opened = await Pool.open(database, size=8)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def shared_database(server: TestServer, door: Callable[[str], str]) -> AsyncIterator[str]:
    """One migrated database for all tests that roll their transaction back."""
    admin = await connect(server.url())
    await admin.execute("CREATE DATABASE rolled_back TEMPLATE template_starforge")
    yield door("rolled_back")
    await admin.execute("DROP DATABASE rolled_back WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def conn(shared_database: str) -> AsyncIterator[Connection]:
    """A connection inside a transaction that is rolled back when the test ends."""
    opened = await connect(shared_database)
    transaction = opened.transaction()
    await transaction.start()
    yield opened
    await transaction.rollback()
    await opened.close()


Travel = Callable[..., Awaitable[None]]


@pytest.fixture
def travel() -> Travel:
    """Move the database's clock: `await travel(conn, minutes=10)`; only the tables' owner may."""
    moved = timedelta()

    async def move(conn: Connection, **by: float) -> None:
        nonlocal moved
        moved += timedelta(**by)
        await conn.execute(
            "CREATE OR REPLACE FUNCTION sf_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
            f" AS $$ SELECT statement_timestamp() + interval '{moved.total_seconds()} seconds' $$"
        )

    return move
