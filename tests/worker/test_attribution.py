"""Crash attribution: who ran when a process died, who is to blame, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from starforge.db.pool import Connection
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import Fault, cut, nothing, proxied
from tests.worker.marks import APP
from tests.worker.processes import HISTORY, MARKS, a_worker, until

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

FAST = {"STARFORGE_BACKOFF_BASE_S": "0.02"}
QUARANTINED = "SELECT count(*) FROM queue_jobs WHERE status = 'quarantined'"


async def child_of(worker: asyncio.subprocess.Process) -> psutil.Process:
    async with asyncio.timeout(20):
        while not (children := psutil.Process(worker.pid).children()):
            await asyncio.sleep(0.02)
    return children[0]


async def nobody_else_was_hurt(db: Connection) -> None:
    """No attempt was burnt, and whoever was not running is not even marked."""
    for table in ("queue_jobs", "job_history"):
        assert await db.fetchval(f"SELECT count(*) FROM {table} WHERE attempts > 0") == 0
    started = "SELECT job_id FROM marks WHERE what = 'start'"
    assert await db.fetchval(f"SELECT count(*) FROM job_kills WHERE job_id NOT IN ({started})") == 0


@pytest.mark.parametrize("how", ["exit", "segv", "kill", "overflow"])
@covers("O-29", "Q-39", "O-01", "O-18")
async def test_a_poisonous_job_is_quarantined_after_three_kills_and_nobody_else_is_hurt(
    db: Connection, database: str, how: str
) -> None:
    """Others run beside it: at first nobody knows which it was."""
    await enqueue_many(db, [NewJob("marks.wait", {"seconds": 0.6}, max_attempts=1) for _ in range(3)])
    poison = (await enqueue(db, NewJob("marks.harm", {"how": how, "after_s": 0.3}, max_attempts=1))).id
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="4", **FAST):
        await until(db, QUARANTINED, 1)
        await until(db, HISTORY, 3)
        await enqueue_many(db, [NewJob("marks.once") for _ in range(5)])
        await until(db, HISTORY, 8)
    await nobody_else_was_hurt(db)
    job = await db.fetchrow("SELECT id, status, kills, attempts, last_error FROM queue_jobs")
    assert job is not None
    assert tuple(job)[:4] == (poison, "quarantined", 3, 0)
    told = {
        "exit": "ended by itself with status 2",
        "segv": "was killed by signal 11 (SIGSEGV)",
        "kill": "was killed by signal 9 (SIGKILL)",
        "overflow": "was killed by signal 11 (SIGSEGV)",
    }[how]
    error = job["last_error"]
    assert error["reason"] == f"it killed 3 of at most 3 worker processes, the last of which {told}"
    assert error["exit_status"] in (2, -11, -9)
    if how in ("segv", "overflow"):
        assert "Segmentation fault" in error["stacks"]
        assert "marks.py" in error["stacks"]
    verdicts = await db.fetch(
        "SELECT job_id = $1 AS poison, verdict, cause, count(*)::int AS n FROM job_kills"
        " GROUP BY 1, 2, 3 ORDER BY 1, 2",
        poison,
    )
    cause = "exit" if how == "exit" else "signal"
    assert [tuple(row) for row in verdicts] == [
        (False, "suspect", cause, 3),
        (True, "guilty", cause, 3),
        (True, "suspect", cause, 1),
    ]
    # One death for all of them: after it each ran in a process of its own.
    assert await db.fetchval("SELECT count(*) FROM workers WHERE state = 'dead'") == 1
    assert await db.fetchval("SELECT killed_at IS NOT NULL FROM job_types WHERE name = 'marks.harm'")


@covers("O-01", "O-16")
async def test_the_only_job_that_ran_is_guilty_and_those_claimed_beside_it_are_not_even_suspects(
    db: Connection, database: str
) -> None:
    """Two hundred are claimed, one runs."""
    await enqueue_many(db, [NewJob("marks.once") for _ in range(100)])
    poison = (await enqueue(db, NewJob("marks.die", {"how": "segv"}))).id
    await enqueue_many(db, [NewJob("marks.once") for _ in range(100)])
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="1", **FAST):
        await until(db, QUARANTINED, 1)
        await until(db, HISTORY, 200)
        await until(db, "SELECT count(*) FROM marks WHERE what = 'lost: signal, guilty'", 3)
    await nobody_else_was_hurt(db)
    assert await db.fetchval("SELECT count(*) FROM job_kills WHERE job_id <> $1", poison) == 0
    touched = "SELECT count(*) FROM job_history WHERE kills > 0 OR attempts > 0"
    assert await db.fetchval(touched) == 0
    assert await db.fetchval("SELECT count(*) FROM job_kills WHERE told_at IS NULL") == 0


@asynccontextmanager
async def killed_somewhere(db: Connection, database: str, **environment: str) -> AsyncIterator[None]:
    """Start a worker that dies by itself or is killed in the block; then let a healthy one end the work."""
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="3", **FAST, **environment) as worker:
        yield
        if worker.returncode is None:
            os.killpg(worker.pid, signal.SIGKILL)
        await worker.wait()
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="3", **FAST):
        await until(db, "SELECT count(*) FROM queue_jobs", 0)


POINTS = (
    "after_claim:kill@2",
    "handler_started:kill@1",
    "handler_ended:kill@40",
    "before_complete:kill@1",
    "after_complete:kill@2",
)
SUPERVISORS_POINTS = (
    "worker_registered:kill@2",
    "child_ended:kill@1",
    "before_burial_commit:kill@1",
    "burial_committed:kill@1",
)


@pytest.mark.parametrize("point", POINTS)
@covers("O-16", "G2")
async def test_a_child_killed_at_any_step_burns_no_attempt_and_only_what_had_started_is_judged(
    db: Connection, database: str, point: str
) -> None:
    """Every child of this worker dies there, again and again; the next worker is healthy."""
    # They take a while each, so that no child completes them all at once.
    await enqueue_many(db, [NewJob("marks.wait", {"seconds": 0.01}, max_attempts=1) for _ in range(120)])
    async with killed_somewhere(db, database, STARFORGE_FAILPOINTS=point):
        await until(db, "SELECT count(*) > 1 FROM workers WHERE state = 'dead'", True)
    await nobody_else_was_hurt(db)
    assert await db.fetchval(HISTORY) == 120
    assert await db.fetchval("SELECT count(*) FROM job_kills WHERE told_at IS NULL") == 0


@pytest.mark.parametrize("point", SUPERVISORS_POINTS)
@covers("O-16", "G2")
async def test_a_supervisor_killed_at_any_step_of_a_burial_leaves_it_to_its_heirs(
    db: Connection, database: str, point: str
) -> None:
    await enqueue_many(db, [NewJob("marks.die_first", max_attempts=1) for _ in range(3)])
    await enqueue_many(db, [NewJob("marks.once", max_attempts=1) for _ in range(50)])
    async with killed_somewhere(db, database, STARFORGE_FAILPOINTS=point):
        alive = "SELECT count(*) FROM workers WHERE state = 'running'"
        async with asyncio.timeout(20):
            while await db.fetchval(alive) == 0:
                await asyncio.sleep(0.02)
            for _ in range(40):
                await asyncio.sleep(0.05)
    await nobody_else_was_hurt(db)
    assert await db.fetchval(HISTORY) == 53
    died = await db.fetchval("SELECT count(*) FROM job_kills WHERE verdict = 'guilty'")
    assert died <= 3


@pytest.mark.parametrize("who", ["child", "supervisor", "group"])
@covers("O-16", "O-18", "G5")
async def test_whoever_is_killed_from_outside_what_had_not_started_runs_once(
    db: Connection, database: str, who: str
) -> None:
    """Two jobs run, thirty wait in the child's buffer or in the table."""
    await enqueue_many(db, [NewJob("marks.wait", {"seconds": 1.0}, max_attempts=1) for _ in range(2)])
    await enqueue_many(db, [NewJob("marks.once", max_attempts=1, priority=-1) for _ in range(30)])
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="2", **FAST) as worker:
        await until(db, MARKS, 2, "start")
        if who == "child":
            (await child_of(worker)).kill()
        elif who == "supervisor":
            worker.kill()
        else:
            os.killpg(worker.pid, signal.SIGKILL)
        if who != "child":
            await worker.wait()
            async with a_worker(database, app=APP, WORKER_CONCURRENCY="2", **FAST):
                await until(db, HISTORY, 32)
        await until(db, HISTORY, 32)
    kills = await db.fetch("SELECT verdict, cause, evidence FROM job_kills")
    assert [row["verdict"] for row in kills] == ["suspect"] * 2
    assert {row["cause"] for row in kills} == {"signal" if who == "child" else "unknown"}
    assert all(row["evidence"]["ran_beside"] == 1 for row in kills)
    assert await db.fetchval("SELECT count(*) FROM job_history WHERE attempts > 0 OR kills > 0") == 0
    once = "SELECT count(*) FROM marks m JOIN job_history h ON h.id = m.job_id WHERE h.type = 'marks.once'"
    assert await db.fetchval(once) == 30
    reason = await db.fetchval("SELECT stop_reason FROM workers WHERE state = 'dead'")
    assert reason == (
        "its process was killed by signal 9 (SIGKILL), by whom is not known"
        if who == "child"
        else "its process is gone, supervisor and all"
    )


@covers("G2")
async def test_a_worker_that_is_killed_while_it_stops_leaves_no_blame(db: Connection, database: str) -> None:
    """As when a deployment's patience ends: nobody is suspected, and nothing is counted."""
    await enqueue(db, NewJob("marks.deaf", max_attempts=1))
    async with a_worker(database, app=APP, STARFORGE_GRACE_S="600") as worker:
        await until(db, MARKS, 1, "start")
        worker.send_signal(signal.SIGTERM)
        await until(db, "SELECT state FROM workers", "stopping")
        os.killpg(worker.pid, signal.SIGKILL)
        await worker.wait()
    async with a_worker(database, app=APP):
        await until(db, MARKS, 2, "start")
        row = await db.fetchrow("SELECT attempts, kills, reclaims, suspect FROM queue_jobs")
    assert row is not None
    assert tuple(row) == (0, 0, 0, False)
    assert await db.fetchval("SELECT count(*) FROM job_kills") == 0
    reason = await db.fetchval("SELECT stop_reason FROM workers WHERE state = 'dead'")
    assert reason == "its process is gone; it was told to stop before"


async def test_a_death_that_the_database_could_not_be_told_is_told_when_it_is_back(
    db: Connection, database: str, server: TestServer
) -> None:
    poison = (await enqueue(db, NewJob("marks.harm", {"how": "segv", "after_s": 0.5}))).id
    async with proxied(server.port) as proxy, a_worker(proxy.url(database), app=APP, **FAST):
        await until(db, MARKS, 1, "start")
        proxy.rule = lambda _statement: Fault("before", cut)
        proxy.cut()
        for _ in range(40):
            await asyncio.sleep(0.05)
        assert await db.fetchval("SELECT kills FROM queue_jobs") == 0
        proxy.rule = nothing
        await until(db, "SELECT kills FROM queue_jobs WHERE id = $1 AND kills > 0", 1, poison)
    assert await db.fetchval("SELECT min(verdict) FROM job_kills") == "guilty"
