"""The worker as a process: what survives kills, stops, freezes and a start that cannot work."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from starforge.db.pool import Connection, connect
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import proxied
from tests.worker.marks import TABLE

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

APP = "tests.worker.marks:app"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    conn = await connect(database)
    await conn.execute(TABLE)
    yield conn
    await conn.close()


@asynccontextmanager
async def a_worker(
    database: str, app: str = APP, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `starforge worker` in a group of its own; kill what is left of it in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "worker", "--app", app, "--log-level", "error",
        env={**os.environ, "DATABASE_URL": database, "STARFORGE_GRACE_S": "10", **environment},
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def until(conn: Connection, query: str, wanted: Any, *args: object) -> None:
    async with asyncio.timeout(30):
        while await conn.fetchval(query, *args) != wanted:
            await asyncio.sleep(0.02)


MARKS = "SELECT count(*) FROM marks WHERE what = $1"
HISTORY = "SELECT count(*) FROM job_history"


@covers("D-19")
async def test_a_job_whose_process_is_killed_runs_again_at_once_with_no_attempt_burnt(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("marks.die_first", max_attempts=1))
    async with a_worker(database):
        await until(db, HISTORY, 1)
    row = await db.fetchrow("SELECT attempts, lease_epoch FROM job_history")
    assert row is not None
    assert row["attempts"] == 0
    assert row["lease_epoch"] == 3  # claim, reclaim, claim
    assert await db.fetchval("SELECT count(DISTINCT worker_id) FROM marks") == 2
    assert await db.fetchval("SELECT stop_reason FROM workers WHERE state = 'dead'") == (
        "its process was killed by signal 9 (SIGKILL), by whom is not known"
    )


@covers("D-12")
async def test_a_frozen_worker_loses_its_jobs_and_its_late_results_are_refused(
    db: Connection, database: str
) -> None:
    job_id = (await enqueue(db, NewJob("marks.wait", {"seconds": 1.0}))).id
    async with a_worker(database, STARFORGE_LEASE_S="1") as frozen:
        await until(db, MARKS, 1, "start")
        os.killpg(frozen.pid, signal.SIGSTOP)
        async with a_worker(database, STARFORGE_LEASE_S="1"):
            await until(db, MARKS, 2, "start")
            os.killpg(frozen.pid, signal.SIGCONT)
            await until(db, HISTORY, 1)
        first = await db.fetchval("SELECT worker_id FROM marks WHERE what = 'start' ORDER BY at LIMIT 1")
        finisher = await db.fetchval("SELECT worker_id FROM job_history WHERE id = $1", job_id)
        assert finisher != first
        assert await db.fetchval("SELECT state FROM workers WHERE id = $1", first) == "dead"
        # It comes back as another worker, under a lease of its own.
        await until(db, "SELECT count(*) FROM workers WHERE state = 'running' AND pid = $1", 1, frozen.pid)
    assert await db.fetchval(HISTORY) == 1


async def test_sigterm_lets_running_jobs_end_and_starts_no_more(db: Connection, database: str) -> None:
    await enqueue_many(db, [NewJob("marks.wait", {"seconds": 0.5}) for _ in range(4)])
    async with a_worker(database, WORKER_CONCURRENCY="2") as worker:
        await until(db, MARKS, 2, "start")
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 15) == 0
    assert await db.fetchval(MARKS, "start") == await db.fetchval(MARKS, "end") == 2
    rows = await db.fetch("SELECT status, attempts FROM queue_jobs")
    assert [tuple(row) for row in rows] == [("pending", 0)] * 2
    assert await db.fetchval("SELECT state FROM workers") == "stopped"


async def test_a_second_sigterm_gives_running_jobs_back_at_once_unburnt(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("marks.wait", {"seconds": 60.0}))
    async with a_worker(database) as worker:
        await until(db, MARKS, 1, "start")
        worker.send_signal(signal.SIGTERM)
        await until(db, "SELECT state FROM workers", "stopping")
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 8) == 0
    row = await db.fetchrow("SELECT status, attempts, worker_id FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0, None)


async def test_a_job_that_is_deaf_to_its_cancellation_is_killed_and_pending_at_once(
    db: Connection, database: str
) -> None:
    """Told twice, a worker does not wait for the grace period; and nobody waits for a lease."""
    await enqueue(db, NewJob("marks.deaf"))
    async with a_worker(database, STARFORGE_GRACE_S="600") as worker:
        await until(db, MARKS, 1, "start")
        worker.send_signal(signal.SIGTERM)
        await until(db, "SELECT state FROM workers", "stopping")
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 12) == 0
    row = await db.fetchrow("SELECT status, attempts, worker_id FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0, None)


async def test_a_worker_that_is_told_to_stop_just_as_it_starts_ends_at_once(
    db: Connection, database: str
) -> None:
    """Its child is being made, or imports, or has just got its first connection."""
    for number, naps in enumerate((0, 1, 3, 6)):
        async with a_worker(database, STARFORGE_GRACE_S="600") as worker:
            async with asyncio.timeout(20):
                while await db.fetchval("SELECT count(*) FROM workers") == number:
                    await asyncio.sleep(0)
            for _ in range(naps):
                await asyncio.sleep(0.05)
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(worker.wait(), 5) == 0
        assert await db.fetchval("SELECT state FROM workers ORDER BY started_at DESC LIMIT 1") == "stopped"


async def test_a_handler_that_leaves_the_program_ends_its_attempt_and_not_the_worker(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("marks.leave", max_attempts=1))
    async with a_worker(database):
        await until(db, "SELECT status FROM queue_jobs", "failed")
        await enqueue(db, NewJob("marks.wait", {"seconds": 0.0}))
        await until(db, HISTORY, 1)
    assert await db.fetchval("SELECT count(*) FROM workers") == 1


async def test_a_locked_queue_costs_no_worker_its_lease(db: Connection, database: str) -> None:
    """Reclaiming waits for the table; the heartbeat does not wait for reclaiming."""
    other = await connect(database)
    async with a_worker(database, STARFORGE_LEASE_S="1.5"):
        await until(db, "SELECT count(*) FROM workers", 1)
        async with other.transaction():
            await other.execute("LOCK TABLE queue_jobs")
            await until(db, "SELECT heartbeat_at - started_at > interval '3.5 s' FROM workers", True)
        assert await db.fetchval("SELECT state FROM workers") == "running"
    await other.close()


async def test_a_heartbeat_whose_connection_died_without_a_word_takes_another_in_time(
    db: Connection, database: str, server: TestServer
) -> None:
    async with proxied(server.port) as proxy, a_worker(proxy.url(database), STARFORGE_LEASE_S="3"):
        await until(db, "SELECT count(*) FROM workers", 1)
        proxy.mute()
        await until(db, "SELECT heartbeat_at - started_at > interval '3.5 s' FROM workers", True)
        assert await db.fetchval("SELECT array_agg(state) FROM workers") == ["running"]


async def test_a_child_that_finds_no_connection_is_started_until_it_finds_one(
    db: Connection, server: TestServer, database: str
) -> None:
    """The supervisor has the only connection that the role may have: nothing is wrong with the child."""
    await enqueue(db, NewJob("marks.wait", {"seconds": 0.0}))
    await db.execute("ALTER ROLE starforge_engine CONNECTION LIMIT 1")
    try:
        async with a_worker(server.url(database.rpartition("/")[2], "starforge_engine")):
            await until(db, "SELECT count(*) > 2 FROM workers WHERE state = 'dead'", True)
            await db.execute("ALTER ROLE starforge_engine CONNECTION LIMIT -1")
            await until(db, HISTORY, 1)
    finally:
        await db.execute("ALTER ROLE starforge_engine CONNECTION LIMIT -1")
    assert "status 3" in await db.fetchval("SELECT min(stop_reason) FROM workers WHERE state = 'dead'")


async def test_the_child_dies_with_its_supervisor(db: Connection, database: str) -> None:
    async with a_worker(database) as worker:
        await until(db, "SELECT count(*) FROM workers WHERE state = 'running'", 1)
        async with asyncio.timeout(20):
            while not (children := psutil.Process(worker.pid).children()):
                await asyncio.sleep(0.02)
        worker.kill()
        await worker.wait()
        async with asyncio.timeout(10):
            while any(child.is_running() and child.status() != "zombie" for child in children):
                await asyncio.sleep(0.02)


async def test_jobs_of_a_killed_group_go_to_the_next_worker_of_the_machine_without_waiting(
    db: Connection, database: str
) -> None:
    """The lease of the dead one has nearly half a minute to run; its process is known to be gone."""
    await enqueue(db, NewJob("marks.wait", {"seconds": 0.2}))
    async with a_worker(database) as worker:
        await until(db, MARKS, 1, "start")
        os.killpg(worker.pid, signal.SIGKILL)
        await worker.wait()
    async with a_worker(database), asyncio.timeout(15):
        await until(db, HISTORY, 1)
    assert (
        await db.fetchval("SELECT stop_reason FROM workers WHERE state = 'dead' LIMIT 1")
        == "its process is gone, supervisor and all"
    )


async def test_a_worker_with_two_connections_holds_no_more_and_works(db: Connection, database: str) -> None:
    await enqueue_many(db, [NewJob("marks.wait", {"seconds": 0.0}) for _ in range(50)])
    used = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'starforge %'"
    )
    async with a_worker(database, PG_POOL_MAX="2", WORKER_CONCURRENCY="1"):
        most = 0
        async with asyncio.timeout(30):
            while await db.fetchval(HISTORY) < 50:
                most = max(most, await db.fetchval(used))
                await asyncio.sleep(0.005)
    assert 1 <= most <= 2


@pytest.mark.parametrize(
    ("app", "told"),
    [
        ("tests.worker.no_such:app", "SF301: --app tests.worker.no_such:app: there is no module"),
        ("tests.worker.marks:nothing", "has no StarForge called nothing"),
    ],
)
async def test_an_app_that_does_not_exist_is_refused_in_one_sentence(
    database: str, app: str, told: str
) -> None:
    async with a_worker(database, app) as worker:
        _, text = await asyncio.wait_for(worker.communicate(), 20)
        assert worker.returncode == 2
    assert told in text.decode()
    assert "Traceback" not in text.decode()


async def test_a_worker_refuses_a_schema_that_it_cannot_serve(db: Connection, database: str) -> None:
    await db.execute("UPDATE schema_migrations SET serves_from = 999 WHERE number = 1")
    async with a_worker(database) as worker:
        _, text = await asyncio.wait_for(worker.communicate(), 20)
        assert worker.returncode == 1
    assert "serves code that knows 999 or newer; this worker knows" in text.decode()
