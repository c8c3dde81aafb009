"""For the tests of programs that use StarForge: a clean queue per test, and jobs that run when enqueued.

# conftest.py
pytest_plugins = ["starforge.testing"]

async def test_a_new_user_is_welcomed(starforge_queue):
    await register_user("ann")                      # enqueues
    assert [job.type for job in await starforge_queue.jobs()] == ["welcome"]
    await starforge_queue.drain(app)                # runs what is due, in this process
    assert outbox == ["ann"]

def test_without_a_database():
    with inline(app) as ran: ...                    # enqueueing runs the handler at once

The fixture clones a migrated template on one server that all tests share: the embedded one, kept in the
system's folder for temporary files with fsync off, or that of STARFORGE_TEST_DATABASE_URL.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from starforge.app import StarForge
from starforge.clock import monotonic_s
from starforge.db.embedded import EmbeddedServer, acquire
from starforge.db.migrate import code_version, migrate
from starforge.db.pool import Connection, Pool, connect
from starforge.errors import MisusedError, RefusedError, told
from starforge.queue.context import Host
from starforge.queue.entry import kind_of, payload_text
from starforge.queue.job import Accepted, JobSettings, LeasedJob, NewJob
from starforge.worker.attempt import attempt
from starforge.worker.registry import Registration, register
from starforge.worker.run import Runner
from starforge.worker.threads import Threads

URL_ENV = "STARFORGE_TEST_DATABASE_URL"
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
"""What a server may do whose data nobody will miss."""

CONNECTIONS = 4
LOOK_S = 0.01
LEASE_S = 3600.0
GRACE_S = 5.0


class JobsFailedError(RefusedError):
    """Jobs of a test failed while they were drained."""

    code = "SF820"
    remedy = "Mend the handler, or drain with raising=False and look at `failures`."


class NotDrainedError(RefusedError):
    """Jobs of a test did not end in time."""

    code = "SF821"
    remedy = "Give `within_s` more time, or look for a job that enqueues itself."


class NoDatabaseError(MisusedError):
    """A handler that ran inline asked for the database."""

    code = "SF822"
    remedy = "Use the fixture starforge_queue for handlers that use ctx.pool or ctx.transaction()."


class QueuedJob(msgspec.Struct, frozen=True):
    """A job as a test sees it."""

    id: UUID
    type: str
    payload: dict[str, Any]
    queue: str
    status: str
    priority: int
    attempts: int
    run_after: datetime
    tags: list[str] | None
    last_error: Any = None


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of the jobs that were run."""

    completed: int
    cancelled: int
    failures: list[QueuedJob]
    """Jobs with a failed attempt: given up, held back, or waiting for the next one."""


class Queue:
    """A queue of a test's own."""

    def __init__(self, url: str) -> None:
        self.url = url
        """Of the database, as its owner; DATABASE_URL says the same while the test runs."""

        self._moved = timedelta()

    async def jobs(self, job_type: str | None = None) -> list[QueuedJob]:
        """Return the jobs that wait, run, failed or are held, in the order in which they are due."""
        return await self._fetch(
            "SELECT id, type, payload, queue, status, priority, attempts, run_after, tags, last_error"
            " FROM queue_jobs WHERE $1::text IS NULL OR type = $1 ORDER BY run_after, id",
            job_type,
        )

    async def drain(
        self, app: StarForge, *, within_s: float = 30.0, concurrency: int = 8, raising: bool = True
    ) -> Drained:
        """Run every due job of the app's types, and what they enqueue, in this process and on this loop.

        Raises: JobsFailedError where a job fails and `raising`; NotDrainedError after `within_s`.
        """
        async with asyncio.timeout(within_s + GRACE_S):
            pool = await Pool.open(self.url, size=CONNECTIONS)
            try:
                return await self._drain(pool, app, within_s, concurrency, raising=raising)
            finally:
                await pool.close()

    async def travel(self, **by: float) -> None:
        """Move the queue's clock, as in `travel(minutes=10)`: what was scheduled or retried becomes due."""
        self._moved += timedelta(**by)
        conn = await connect(self.url)
        try:
            await conn.execute(
                "CREATE OR REPLACE FUNCTION sf_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
                f" AS $$ SELECT statement_timestamp() + interval '{self._moved.total_seconds()} seconds' $$"
            )
        finally:
            await conn.close()

    async def _drain(
        self, pool: Pool, app: StarForge, within_s: float, concurrency: int, *, raising: bool
    ) -> Drained:
        types = app.job_types()
        async with pool.connection() as conn:
            queues = await conn.fetch("SELECT DISTINCT queue FROM queue_jobs")
            names = tuple({row["queue"] for row in queues} | set(types.queues()))
            worker_id = await register(conn, Registration(names, types.names(), concurrency), lease_s=LEASE_S)
            since = await conn.fetchval("SELECT sf_now()")
        runner = Runner(pool, types, worker_id, queues=names, concurrency=concurrency, poll_s=LOOK_S)
        running = asyncio.create_task(runner.run(grace_s=GRACE_S, hurry=asyncio.Event()))
        try:
            await self._until_dry(pool, list(types.names()), within_s, running)
        finally:
            runner.stop()
            await running
        drained = await self._drained(pool, worker_id, since)
        if raising and drained.failures:
            raise JobsFailedError("; ".join(_failure(job) for job in drained.failures))
        return drained

    async def _until_dry(
        self, pool: Pool, types: list[str], within_s: float, running: asyncio.Task[None]
    ) -> None:
        ends_s = monotonic_s() + within_s
        async with pool.connection() as conn:
            while not running.done():
                left = await conn.fetchval(
                    "SELECT count(*) FROM queue_jobs WHERE status = 'running'"
                    " OR (status = 'pending' AND run_after <= sf_now() AND type = ANY ($1))",
                    types,
                )
                if not left:
                    return
                if monotonic_s() > ends_s:
                    raise NotDrainedError(f"{left} jobs had not ended after {within_s:g} s")
                await asyncio.sleep(LOOK_S)

    async def _drained(self, pool: Pool, worker_id: UUID, since: datetime) -> Drained:
        async with pool.connection() as conn:
            ended = await conn.fetch(
                "SELECT status, count(*) AS jobs FROM job_history WHERE worker_id = $1 GROUP BY status",
                worker_id,
            )
        counts = {row["status"]: row["jobs"] for row in ended}
        failures = await self._fetch(
            "SELECT id, type, payload, queue, status, priority, attempts, run_after, tags, last_error"
            " FROM queue_jobs WHERE last_error IS NOT NULL AND updated_at >= $1 ORDER BY updated_at, id",
            since,
        )
        return Drained(counts.get("completed", 0), counts.get("cancelled", 0), failures)

    async def _fetch(self, statement: str, argument: object) -> list[QueuedJob]:
        conn = await connect(self.url)
        try:
            return [QueuedJob(**row) for row in await conn.fetch(statement, argument)]
        finally:
            await conn.close()


def _failure(job: QueuedJob) -> str:
    error = job.last_error
    reason = error.get("reason") if isinstance(error, dict) else error
    return f"{job.type} job {job.id}: {reason}"


@dataclass(frozen=True, slots=True)
class Ran:
    """A job that ran inline."""

    id: UUID
    type: str
    payload: dict[str, Any]
    ending: str
    """done, failed, held, cancelled, putoff …"""

    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class Inline:
    """The jobs that ran inline, in the order in which they ended."""

    ran: list[Ran] = field(default_factory=list)
    raising: bool = True

    async def run(self, app: StarForge, job: NewJob) -> Accepted:
        """Run a job at once, as a worker would on its first attempt."""
        job_type = app.job_types().get(job.type)
        if job_type is None:
            self.ran.append(Ran(job.id, job.type, job.payload, "unknown"))
            return Accepted(job.id, new=True)
        kind = kind_of(job)
        payload = msgspec.json.decode(payload_text(job, JobSettings.read().payload_bytes_max))
        leased = LeasedJob(
            job.id, kind.tenant_id, job.queue, job.type, payload, 0, kind.max_attempts, 1, trace=job.trace
        )
        threads = Threads(1)
        try:
            none = cast("Pool", _NoPool())  # whatever is asked of it, it refuses
            host = Host(none, job.id, threads=threads)
            outcome = await attempt(leased, job_type, host)
            await host.resources.close()
        finally:
            threads.close()
        result = None if outcome.result is None else msgspec.json.decode(outcome.result)
        self.ran.append(Ran(job.id, job.type, payload, outcome.ending, result, outcome.error))
        if self.raising and outcome.ending == "failed" and outcome.error is not None:
            raise outcome.error
        return Accepted(job.id, new=True)


class _NoPool:
    """Stands where the worker's connections are: there are none inline."""

    lost_at_s = float("-inf")

    def __getattr__(self, name: str) -> Any:
        raise NoDatabaseError(f"a job that runs inline has no database: ctx.pool.{name} cannot be had")


@contextmanager
def inline(app: StarForge, *, raising: bool = True) -> Iterator[list[Ran]]:
    """Have every job of the app run where it is enqueued, without a queue or a database.

    Arguments are checked and travel as JSON, as they would through the queue. Delays, priorities, limits and
    retries mean nothing here: there is one attempt, now.

    Args:
        app: Whose jobs.
        raising: Raise to the enqueueing code what a handler raises; else it is found in what is yielded.
    """
    here = Inline(raising=raising)

    async def accept(job: NewJob) -> Accepted:
        return await here.run(app, job)

    with app.accepting(accept):
        yield here.ran


@pytest.fixture(scope="session")
def starforge_server() -> Iterator[str]:
    """The URL of the shared server's administrator; a template with the current schema is there."""
    given = os.environ.get(URL_ENV)
    server: EmbeddedServer | None = None
    if not given:
        home = Path(tempfile.gettempdir()) / f"starforge-tests-{os.getuid()}"
        server = acquire(home, options=QUICK)
        given = server.dsn()
    try:
        _run(_make_template(given))
        yield given
    finally:
        if server is not None:
            server.release()


@pytest.fixture
def starforge_queue(starforge_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """A clean queue: a database of the test's own, which DATABASE_URL names while the test runs."""
    name = f"starforge_test_{uuid4().hex}"
    _run(_execute(starforge_server, f"CREATE DATABASE {name} TEMPLATE {_template()}"))
    url = _other(starforge_server, name)
    monkeypatch.setenv("DATABASE_URL", url)
    try:
        yield Queue(url)
    finally:
        _run(_execute(starforge_server, f"DROP DATABASE {name} WITH (FORCE)"))


def _template() -> str:
    return f"starforge_template_{code_version()}"


async def _make_template(url: str) -> None:
    """Make the template where it lacks, or where its schema is an older one of the same version."""
    admin = await connect(url)
    try:
        await _exclusively(admin, url)
    finally:
        await admin.close()


async def _exclusively(admin: Connection, url: str) -> None:
    # Several test runs may share the server; creating a database cannot be part of a transaction.
    name, half = _template(), f"starforge_making_{uuid4().hex}"
    if await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        return
    await admin.execute(f"CREATE DATABASE {half}")
    made = await connect(_other(url, half))
    try:
        await migrate(made)
    finally:
        await made.close()
    try:
        await admin.execute(f"ALTER DATABASE {half} RENAME TO {name}")
    except Exception as error:
        await admin.execute(f"DROP DATABASE {half} WITH (FORCE)")
        if "already exists" not in told(error):
            raise


async def _execute(url: str, statement: str) -> None:
    conn = await connect(url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


def _other(url: str, database: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{database}"


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run async work from a fixture: no loop runs in this thread then, whichever plugin runs the tests."""
    asyncio.run(work)
