"""The caller's connection: a job belongs to its transaction, whichever driver that is of."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import django
import psycopg
import pytest
import sqlalchemy
from django.conf import settings
from django.db import connection, connections, transaction
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from starforge.app import StarForge
from starforge.db.pool import Connection, connect
from starforge.queue.caller import rendered
from starforge.queue.enqueue import enqueue, enqueue_many, enqueue_sync
from starforge.queue.errors import CallerConnectionError, JobOptionError, PayloadError, PayloadTooLargeError
from starforge.queue.hint import CHANNEL
from starforge.queue.job import Accepted, Key, NewJob
from tests.covers import covers
from tests.postgres import TestServer

Enqueue = Callable[[NewJob], Awaitable[Accepted]]
Opened = AbstractAsyncContextManager[tuple[Any, Enqueue]]
"""Inside the block a transaction is open on what is enqueued on; it commits where the block ends well."""


def _now(conn: Any) -> Enqueue:
    async def run(job: NewJob) -> Accepted:
        return enqueue_sync(conn, job)

    return run


def _soon(conn: Any) -> Enqueue:
    return lambda job: enqueue(conn, job)


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    conn = await asyncpg.connect(url)
    try:
        async with conn.transaction():
            yield conn, _soon(conn)
    finally:
        await conn.close()


@asynccontextmanager
async def _psycopg_sync(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    with psycopg.connect(url) as conn:
        yield conn, _now(conn)


@asynccontextmanager
async def _psycopg_raw(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    """With factories of its owner's own, and an explicit transaction on an autocommit connection."""
    with (
        psycopg.connect(url, autocommit=True, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as conn,
        conn.transaction(),
    ):
        yield conn, _now(conn)


@asynccontextmanager
async def _psycopg_async(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as conn:
        yield conn, _soon(conn)


def _of(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


@asynccontextmanager
async def _sqlalchemy(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    engine = sqlalchemy.create_engine(_of(url, "psycopg"))
    with engine.begin() as conn:
        yield conn, _now(conn)
    engine.dispose()


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    engine = sqlalchemy.create_engine(_of(url, "psycopg"))
    with Session(engine) as session, session.begin():
        yield session, _now(session)
    engine.dispose()


@asynccontextmanager
async def _scoped_session(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    engine = sqlalchemy.create_engine(_of(url, "psycopg"))
    sessions = scoped_session(sessionmaker(engine))
    try:
        yield sessions, _now(sessions)
        sessions.commit()
    finally:
        sessions.remove()
        engine.dispose()


def _async_sqlalchemy(driver: str) -> Callable[[str], Opened]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
        engine = create_async_engine(_of(url, driver))
        async with engine.begin() as conn:
            yield conn, _soon(conn)
        await engine.dispose()

    return opened


def _async_session(driver: str) -> Callable[[str], Opened]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
        engine = create_async_engine(_of(url, driver))
        async with AsyncSession(engine) as session, session.begin():
            yield session, _soon(session)
        await engine.dispose()

    return opened


@asynccontextmanager
async def _async_scoped_session(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    engine = create_async_engine(_of(url, "asyncpg"))
    sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    try:
        yield sessions, _soon(sessions)
        await sessions.commit()
    finally:
        await sessions.remove()
        await engine.dispose()


@asynccontextmanager
async def _django(url: str) -> AsyncIterator[tuple[Any, Enqueue]]:
    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}})
        django.setup()
    parts = urlsplit(url)
    connections.settings["default"].update(
        HOST=parts.hostname, PORT=parts.port, USER=parts.username, NAME=parts.path[1:]
    )
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # a test runs on a loop; whoever uses this does not
    try:
        with transaction.atomic():
            yield connection, _now(connection)
    finally:
        connection.close()
        del connections["default"], os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


WAYS: dict[str, Callable[[str], Opened]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg_sync,
    "psycopg-own-factories": _psycopg_raw,
    "psycopg-async": _psycopg_async,
    "sqlalchemy": _sqlalchemy,
    "sqlalchemy-session": _session,
    "sqlalchemy-scoped": _scoped_session,
    "sqlalchemy-async-asyncpg": _async_sqlalchemy("asyncpg"),
    "sqlalchemy-async-psycopg": _async_sqlalchemy("psycopg"),
    "sqlalchemy-async-session": _async_session("asyncpg"),
    "sqlalchemy-async-session-psycopg": _async_session("psycopg"),
    "sqlalchemy-async-scoped": _async_scoped_session,
    "django": _django,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[str], Opened]:
    """Each kind of connection that a caller may have."""
    return WAYS[request.param]


@pytest.fixture
async def watcher(database: str) -> AsyncIterator[Connection]:
    """A connection of ours, to see what is committed."""
    opened = await connect(database)
    yield opened
    await opened.close()


@covers("G1")
async def test_a_job_exists_once_the_callers_transaction_commits_and_not_where_it_rolls_back(
    database: str, watcher: Connection, way: Callable[[str], Opened]
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with way(database) as (_, put):
            await put(NewJob("t"))
            await put(NewJob("t", unique=Key("k")))
            raise ZeroDivisionError
    assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 0
    assert await watcher.fetchval("SELECT count(*) FROM job_keys") == 0
    async with way(database) as (_, put):
        await put(NewJob("t"))
        assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 0
    assert await watcher.fetchval("SELECT count(*) FROM queue_jobs") == 1


async def test_a_job_is_kept_the_same_by_every_driver(
    database: str, watcher: Connection, way: Callable[[str], Opened]
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    jobs = [
        NewJob(
            "50% :p1 $1 %s", {"a": "100% :p2 $3 %(p1)s \\ 'é'", "n": [1.5, None]}, queue="mail", priority=-3,
            run_after=later, max_attempts=2, tenant="acme", limit_key="k", tags=["a", 'b"'], timeout_s=1.5,
            trace="00-1", unique=key,
        )
        for key in (None, Key("50% :p1"))
    ]  # fmt: skip
    async with way(database) as (_, put):
        for job in jobs:
            assert await put(job) == Accepted(job.id, True)
        assert await put(NewJob("t", delay_s=60.0)) is not None
    told = "type, payload, queue, priority, run_after, max_attempts, tenant_id, limit_key, tags, timeout_s"
    for job in jobs:
        row = await watcher.fetchrow(f"SELECT {told}, trace FROM queue_jobs WHERE id = $1", job.id)
        assert row is not None
        assert tuple(row) == (
            job.type, job.payload, "mail", -3, later, 2, "acme", "k", ["a", 'b"'], 1.5, "00-1",
        )  # fmt: skip
    assert (
        await watcher.fetchval("SELECT count(*) FROM queue_jobs WHERE run_after > created_at + '59 s'") == 3
    )


@covers("Q-67")
async def test_a_key_is_the_same_to_every_driver(
    database: str, watcher: Connection, way: Callable[[str], Opened]
) -> None:
    ours = await enqueue(watcher, NewJob("t", {"n": 1}, unique=Key("k")))
    async with way(database) as (_, put):
        assert await put(NewJob("t", unique=Key("k"))) == Accepted(ours.id, False)
        replacing = NewJob("t", {"n": 2}, unique=Key("k", on_conflict="replace"))
        assert await put(replacing) == Accepted(ours.id, False, True)
    assert await watcher.fetchval("SELECT payload FROM queue_jobs") == {"n": 2}


async def test_the_workers_are_told_at_the_callers_commit(
    database: str, listener: Connection, way: Callable[[str], Opened]
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await listener.add_listener(CHANNEL, lambda *said: heard.put_nowait(str(said[-1])))
    async with way(database) as (_, put):
        await put(NewJob("t", queue="mail"))
    assert await asyncio.wait_for(heard.get(), 5) == '["mail","t",0,"default",""]'


@covers("J-40")
async def test_every_driver_refuses_what_the_rules_refuse_before_anything_is_sent(
    database: str, way: Callable[[str], Opened]
) -> None:
    async with way(database) as (_, put):
        with pytest.raises(PayloadTooLargeError, match="at most 262144"):
            await put(NewJob("t", {"x": "y" * 300_000}))
        with pytest.raises(PayloadError, match=r"payload\.x of a t job"):
            await put(NewJob("t", {"x": float("nan")}))
        with pytest.raises(JobOptionError, match="the priority of a t job"):
            await put(NewJob("t", priority=10_000))
        assert (await put(NewJob("t"))).new  # the transaction is none the worse


@covers("X-12")
async def test_row_security_binds_whatever_the_driver(server: TestServer, database: str) -> None:
    with psycopg.connect(database.replace("tester@", "starforge_app@")) as conn:
        conn.execute("SELECT set_config('starforge.tenant_id', 'acme', true)")
        assert enqueue_sync(conn, NewJob("t", tenant="acme", unique=Key("k"))).new
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            enqueue_sync(conn, NewJob("t", tenant="bolt"))


class Base(DeclarativeBase):
    """The user's models."""


class Order(Base):
    """A table of the user's."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


async def test_a_session_is_not_flushed_by_an_enqueue(database: str, watcher: Connection) -> None:
    await watcher.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    async with _session(database) as (session, put):
        session.add(Order(id=1))
        await put(NewJob("t"))
        assert session.new
    assert (
        await watcher.fetchval("SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM queue_jobs)")
        == 2
    )


async def test_the_app_enqueues_with_its_types_defaults_on_either_colour_of_connection(database: str) -> None:
    app = StarForge("shop")

    @app.job("mail.send", queue="mail", priority=4)
    async def send() -> None: ...

    with psycopg.connect(database) as conn:
        assert app.enqueue_sync(conn, "mail.send").new
    async with await psycopg.AsyncConnection.connect(database) as aconn:
        assert (await app.enqueue("mail.send", conn=aconn)).new
        cursor = await aconn.execute("SELECT queue, priority FROM queue_jobs")
        assert await cursor.fetchall() == [("mail", 4), ("mail", 4)]


@covers("J-40")
async def test_an_option_or_a_payload_that_cannot_be_is_refused_by_the_app(conn: Connection) -> None:
    app = StarForge("shop")
    with pytest.raises(JobOptionError, match=r"the prio of a t job is no option; there are queue, priority"):
        await app.enqueue("t", conn=conn, prio=3)
    payloads: list[Any] = [[], [1], "x", 7]
    for payload in payloads:
        with pytest.raises(PayloadError, match=r"the payload of a t job is a .*, not a JSON object"):
            await app.enqueue("t", payload, conn=conn)


async def test_what_cannot_carry_an_enqueue_is_refused_with_what_can(database: str) -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    sync: Any = psycopg.connect(database)
    own = await connect(database)
    with engine.connect() as lite:
        refusals: list[tuple[Any, str]] = [
            (sqlite3.connect(":memory:"), "sqlite3.Connection is no async connection"),
            (engine, "Engine is no async connection"),
            (sync, "psycopg.Connection is no async connection.*: use enqueue_sync for it"),
            (None, "NoneType is no async"),
        ]
        for conn, told in refusals:
            with pytest.raises(CallerConnectionError, match=told) as refused:
                await enqueue(conn, NewJob("t"))
            assert "django.db.connection" in refused.value.remedy
        with pytest.raises(CallerConnectionError, match="a bulk goes over an asyncpg connection"):
            await enqueue_many(sync, [NewJob("t")])
        refusals = [
            (own, "asyncpg.connection.Connection is no sync connection.*: use enqueue for it"),
            (engine, "Engine is no sync connection"),
            (lite, "is connected to sqlite, not to Postgres"),
        ]
        for conn, told in refusals:
            with pytest.raises(CallerConnectionError, match=told):
                enqueue_sync(conn, NewJob("t"))
    sync.close()
    await own.close()


def test_a_statement_is_rendered_for_each_way_of_writing_parameters() -> None:
    text = "-- a header with $1\nSELECT $1::text, $12 % 2, '$a'"
    assert rendered(text, "pyformat") == "SELECT %(p1)s::text, %(p12)s %% 2, '$a'"
    assert rendered(text, "named") == "SELECT (:p1)::text, (:p12) % 2, '$a'"


def test_no_driver_is_imported_before_one_of_its_connections_is_handed_over() -> None:
    told = "import sys, starforge.app; print(sorted({'psycopg', 'sqlalchemy', 'django'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
