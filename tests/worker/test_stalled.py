"""A child whose loop stands still is ended, and the lease beats on."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from starforge.db.pool import Connection
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.worker.marks import APP
from tests.worker.processes import HISTORY, MARKS, a_worker, until

FAST = {"STARFORGE_BACKOFF_BASE_S": "0.02", "STARFORGE_PROGRESS_S": "2", "STARFORGE_LEASE_S": "2"}


@pytest.mark.parametrize("lock", [False, True])
@covers("G3", "G5", "G6")
async def test_a_handler_that_stops_the_loop_is_ended_and_in_the_end_quarantined(
    db: Connection, database: str, lock: bool
) -> None:
    """`time.sleep` in a coroutine, or a call into C that keeps the interpreter's lock. The lease is short."""
    blocker = (await enqueue(db, NewJob("marks.block", {"seconds": 600, "lock": lock}, max_attempts=1))).id
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="2", **FAST):
        await until(db, "SELECT kills FROM queue_jobs WHERE id = $1", 1, blocker)
        await enqueue_many(db, [NewJob("marks.once", max_attempts=1) for _ in range(10)])
        await until(db, HISTORY, 10)
        await until(db, "SELECT status FROM queue_jobs WHERE id = $1", "quarantined", blocker)
    job = await db.fetchrow("SELECT attempts, kills, last_error FROM queue_jobs")
    assert job is not None
    assert (job["attempts"], job["kills"]) == (0, 3)
    assert job["last_error"]["reason"].endswith("made no progress for 2 s and was killed")
    assert "marks.py" in job["last_error"]["stacks"]
    kills = await db.fetch("SELECT cause, verdict FROM job_kills")
    assert [tuple(row) for row in kills] == [("stalled", "guilty")] * 3
    # It was ended once for it; its lease never ran out, although it is no longer than the deadline.
    reasons = await db.fetch("SELECT stop_reason FROM workers WHERE state = 'dead'")
    assert [row["stop_reason"] for row in reasons] == ["its process made no progress for 2 s and was killed"]


@covers("G3")
async def test_a_loop_that_stands_still_for_less_than_the_deadline_costs_nothing(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("marks.block", {"seconds": 4, "lock": True}, max_attempts=1))
    async with a_worker(database, app=APP, **{**FAST, "STARFORGE_PROGRESS_S": "10"}):
        await until(db, HISTORY, 1)
        assert await db.fetchval("SELECT array_agg(state) FROM workers") == ["running"]
    assert await db.fetchval(MARKS, "start") == 1
    assert await db.fetchval("SELECT lease_epoch FROM job_history") == 1


async def test_an_isolated_type_may_keep_its_own_loop_for_as_long_as_it_likes(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("apart.block", {"seconds": 4, "lock": True}, max_attempts=1))
    async with a_worker(database, app=APP, **FAST):
        await until(db, HISTORY, 1)
    assert await db.fetchval("SELECT count(*) FROM job_kills") == 0


async def test_a_child_whose_handler_holds_the_lock_dies_with_its_supervisor(
    db: Connection, database: str
) -> None:
    """No thread of its own could do that: none gets to run."""
    await enqueue(db, NewJob("marks.block", {"seconds": 600, "lock": True}))
    async with a_worker(database, app=APP) as worker:
        await until(db, MARKS, 1, "start")
        [child] = psutil.Process(worker.pid).children()
        worker.kill()
        await worker.wait()
        async with asyncio.timeout(5):
            while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.02)


async def test_a_neighbour_that_ran_out_of_time_meanwhile_says_whose_doing_that_was(
    db: Connection, database: str
) -> None:
    """The blocker is fine by its own lights; what it held up has nothing of its own to say."""
    await enqueue(db, NewJob("marks.block", {"seconds": 4, "lock": False}, max_attempts=1))
    held_up = await enqueue(db, NewJob("marks.wait", {"seconds": 60}, max_attempts=1, timeout_s=3.0))
    async with a_worker(database, app=APP, WORKER_CONCURRENCY="2", STARFORGE_PROGRESS_S="30"):
        await until(db, "SELECT status FROM queue_jobs WHERE id = $1", "failed", held_up.id)
    reason = await db.fetchval("SELECT last_error ->> 'reason' FROM queue_jobs WHERE id = $1", held_up.id)
    assert "no result within 3 s; its process stood still for " in reason
    assert " meanwhile, in _block (marks.py:" in reason
    assert reason.endswith("a coroutine that does not await holds up all jobs beside it")
