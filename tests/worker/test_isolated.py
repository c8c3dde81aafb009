"""Jobs in processes of their own: what they are given, what ends them, and whom that concerns."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import psutil
import pytest

from starforge.db.pool import Connection
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.worker.marks import APP
from tests.worker.processes import HISTORY, MARKS, a_worker, until

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

FAST = {"STARFORGE_BACKOFF_BASE_S": "0.02"}
WHAT = "SELECT what FROM marks ORDER BY at DESC LIMIT 1"


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while lives(pid):
            await asyncio.sleep(0.02)


async def test_an_isolated_job_has_its_context_and_two_connections_in_a_process_that_is_kept(
    db: Connection, database: str
) -> None:
    async with a_worker(database, app=APP):
        for n in range(3):
            await enqueue(db, NewJob("apart.where"))
            await until(db, HISTORY, n + 1)
    seen = [row["what"].split() for row in await db.fetch("SELECT what FROM marks")]
    assert len({pid for pid, *_ in seen}) == 1
    assert [(attempt, tenant) for *_, attempt, tenant in seen] == [("1", "default")] * 3
    assert (
        await db.fetchval("SELECT count(DISTINCT worker_id) FROM marks JOIN workers w ON w.id = worker_id")
        == 1
    )


async def test_isolated_jobs_run_side_by_side_and_beside_the_others(db: Connection, database: str) -> None:
    await enqueue_many(db, [NewJob("apart.block", {"seconds": 1.5}) for _ in range(2)])
    async with a_worker(database, app=APP, STARFORGE_ISOLATED_MAX="2"):
        await until(db, "SELECT count(*) FROM marks WHERE what LIKE 'start %'", 2)
        await enqueue(db, NewJob("marks.once"))
        await until(db, HISTORY, 1)
        assert await db.fetchval(MARKS, "end") == 0
        await until(db, HISTORY, 3)
    assert await db.fetchval("SELECT count(DISTINCT what) FROM marks WHERE what LIKE 'start %'") == 2


@pytest.mark.parametrize(
    ("how", "status", "error"), [("permanent", "failed", "PermanentError"), ("odd", "pending", "OddError")]
)
async def test_an_error_comes_back_as_it_was_raised(
    db: Connection, database: str, how: str, status: str, error: str
) -> None:
    await enqueue(db, NewJob("apart.fail", {"how": how}))
    async with a_worker(database, app=APP, STARFORGE_BACKOFF_BASE_S="600"):
        await until(db, "SELECT attempts FROM queue_jobs", 1)
    row = await db.fetchrow("SELECT status, last_error FROM queue_jobs")
    assert row is not None
    assert row["status"] == status
    assert row["last_error"]["error"] == error
    assert row["last_error"]["reason"] == ("never" if how == "permanent" else "odd (7)")
    assert "In its own process" in row["last_error"]["trace"]
    assert "marks.py" in row["last_error"]["trace"]


@pytest.mark.parametrize("blocks", [False, True])
@covers("O-29")
async def test_time_that_is_over_ends_the_work_and_what_it_started_and_counts_as_an_attempt(
    db: Connection, database: str, blocks: bool
) -> None:
    """A handler that blocks cannot be cancelled: its process is killed, and that is no kill of the job's."""
    await enqueue(db, NewJob("apart.late", {"blocks": blocks}, max_attempts=2))
    async with a_worker(database, app=APP, **FAST):
        await until(db, "SELECT status FROM queue_jobs", "failed")
        row = await db.fetchrow("SELECT attempts, kills, last_error FROM queue_jobs")
        assert row is not None
        assert (row["attempts"], row["kills"]) == (2, 0)
        assert row["last_error"]["error"] == "TimeoutError"
        assert row["last_error"]["reason"].startswith("no result within 0.3 s")
        if blocks:
            for mark in await db.fetch("SELECT what FROM marks"):
                await gone(int(mark["what"].split()[1]))
    assert await db.fetchval("SELECT count(*) FROM job_kills") == 0
    assert await db.fetchval("SELECT count(*) FROM workers") == 1
    for mark in await db.fetch("SELECT what FROM marks"):
        with suppress(ProcessLookupError):
            os.kill(int(mark["what"].split()[1]), signal.SIGKILL)


@covers("O-50")
async def test_a_job_beyond_its_memory_fails_as_out_of_memory_with_a_report_and_the_worker_lives(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("apart.hungry", {"megabytes": 1000}, max_attempts=1))
    await enqueue(db, NewJob("apart.hungry", {"megabytes": 40}, max_attempts=1))
    async with a_worker(database, app=APP):
        await until(db, "SELECT status FROM queue_jobs", "failed")
        await until(db, HISTORY, 1)
    assert await db.fetchval(MARKS, "took 40") == 1
    row = await db.fetchrow("SELECT attempts, kills, last_error FROM queue_jobs")
    assert row is not None
    assert (row["attempts"], row["kills"]) == (1, 0)
    error = row["last_error"]
    assert (error["error"], error["error_type"]) == ("JobMemoryError", "OOM")
    assert error["reason"] == "out of memory: the job may take 160.0 MB"
    assert error["largest"]["locals"][0].startswith("taken (list) in marks.py")
    assert await db.fetchval("SELECT count(*) FROM workers") == 1


@pytest.mark.parametrize("how", ["exit 0", "segv", "kill"])
@covers("O-29", "O-01")
async def test_a_job_that_kills_its_own_process_is_guilty_three_times_and_its_worker_never_notices(
    db: Connection, database: str, how: str
) -> None:
    poison = (await enqueue(db, NewJob("apart.harm", {"how": how}, max_attempts=1))).id
    async with a_worker(database, app=APP, **FAST):
        await until(db, "SELECT status FROM queue_jobs WHERE id = $1", "quarantined", poison)
        await enqueue(db, NewJob("marks.once"))
        await until(db, HISTORY, 1)
    row = await db.fetchrow("SELECT attempts, kills, last_error FROM queue_jobs")
    assert row is not None
    assert (row["attempts"], row["kills"]) == (0, 3)
    assert row["last_error"]["reason"].startswith("it killed 3 of at most 3 worker processes")
    assert await db.fetchval("SELECT count(*) FROM workers") == 1
    assert await db.fetchval("SELECT count(*) FROM job_kills WHERE verdict = 'guilty'") == 3


async def test_with_two_connections_an_isolated_job_borrows_the_childs_and_gives_it_back(
    db: Connection, database: str
) -> None:
    """One of the two is the supervisor's."""
    await enqueue_many(db, [NewJob("apart.harm", {"how": "nothing"}) for _ in range(3)])
    await enqueue_many(db, [NewJob("marks.once") for _ in range(20)])
    used = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'starforge %'"
    )
    most = 0
    async with a_worker(database, app=APP, PG_POOL_MAX="2", WORKER_CONCURRENCY="4"), asyncio.timeout(40):
        while await db.fetchval(HISTORY) < 23:
            most = max(most, await db.fetchval(used))
            await asyncio.sleep(0.005)
    assert 1 <= most <= 2
    assert await db.fetchval("SELECT count(*) FROM job_history WHERE attempts > 0 OR kills > 0") == 0


@pytest.mark.parametrize("who", ["child", "supervisor"])
async def test_an_isolated_process_dies_with_its_child_even_while_its_handler_holds_the_lock(
    db: Connection, database: str, who: str
) -> None:
    await enqueue(db, NewJob("apart.block", {"seconds": 600, "lock": True}))
    async with a_worker(database, app=APP) as worker:
        await until(db, "SELECT count(*) FROM marks", 1)
        pid = int((await db.fetchval(WHAT)).split()[1])
        assert lives(pid)
        child = psutil.Process(pid).parent()
        assert child is not None
        (child if who == "child" else psutil.Process(worker.pid)).kill()
        await gone(pid)
        if who == "child":
            # It did not kill its child: it ran elsewhere.
            await until(db, "SELECT count(*) FROM workers WHERE state = 'dead'", 1)
            assert await db.fetchval("SELECT count(*) FROM job_kills") == 0


async def test_a_stop_that_is_told_to_all_processes_of_a_service_lets_an_isolated_job_end(
    db: Connection, database: str
) -> None:
    """So does a service manager: it kills no job that is guilty of nothing."""
    await enqueue(db, NewJob("apart.wait", {"seconds": 1.5}, max_attempts=1))
    async with a_worker(database, app=APP) as worker:
        await until(db, "SELECT count(*) FROM marks", 1)
        pid = int((await db.fetchval(WHAT)).split()[1])
        os.kill(pid, signal.SIGTERM)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 30) == 0
    assert await db.fetchval(HISTORY) == 1
    assert await db.fetchval("SELECT count(*) FROM job_kills") == 0


async def test_a_stop_gives_an_isolated_job_back_even_where_it_cannot_be_cancelled(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("apart.block", {"seconds": 600, "lock": True}, max_attempts=1))
    async with a_worker(database, app=APP, STARFORGE_GRACE_S="0.2") as worker:
        await until(db, "SELECT count(*) FROM marks", 1)
        pid = int((await db.fetchval(WHAT)).split()[1])
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 15) == 0
        await gone(pid)
    row = await db.fetchrow("SELECT status, attempts, kills, reclaims FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0, 0, 0)
    assert await db.fetchval("SELECT state FROM workers") == "stopped"
