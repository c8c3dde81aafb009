"""A running job is cancelled: its worker sees it within a second, whatever the job is doing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from starforge.app import StarForge
from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool, connect
from starforge.queue.cancel import cancel
from starforge.queue.context import Context
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.job import NewJob
from tests.covers import covers
from tests.worker.at_work import accept, at_work, ended, until
from tests.worker.marks import TABLE
from tests.worker.test_supervise import HISTORY, MARKS, a_worker
from tests.worker.test_supervise import until as until_row

RUNNING = "SELECT count(*) FROM queue_jobs WHERE status = 'running'"


async def stop(pool: Pool, job: NewJob, reason: str = "not wanted") -> None:
    async with pool.connection() as conn:
        assert await cancel(conn, [job.id], reason=reason) == {job.id: "running"}


@covers("D-19")
async def test_a_coroutine_is_cancelled_within_a_second_or_so_and_its_slot_is_free_again(pool: Pool) -> None:
    app = StarForge()
    seen: list[str] = []

    @app.job
    async def waits(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"cancelled: {ctx.cancelled}")

    @app.job
    async def good() -> None: ...

    job = waits.new()
    await accept(pool, job)
    async with at_work(pool, app, concurrency=1):
        await until(pool, RUNNING, 1)
        asked_s = monotonic_s()
        await stop(pool, job)
        row = await ended(pool, job.id)
        assert monotonic_s() - asked_s < 5
        assert (await ended(pool, await accept(pool, good.new())))["status"] == "completed"
    assert (row["status"], row["reason"], row["attempts"]) == ("cancelled", "not wanted", 0)
    assert seen == ["cancelled: True"]


async def test_a_thread_sees_that_it_is_asked_to_end_and_ends_as_cancelled(pool: Pool) -> None:
    app = StarForge()

    @app.job
    def waits(ctx: Context) -> None:
        while not ctx.cancelled:
            time.sleep(0.005)
        raise InterruptedError("stopped in the middle")

    job = waits.new()
    await accept(pool, job)
    async with at_work(pool, app):
        await until(pool, RUNNING, 1)
        await stop(pool, job)
        row = await ended(pool, job.id)
    assert (row["status"], row["reason"]) == ("cancelled", "not wanted")


@pytest.mark.parametrize("colour", ["thread", "coroutine"])
async def test_what_completes_all_the_same_has_completed(pool: Pool, colour: str) -> None:
    app = StarForge()

    @app.job
    def thread(ctx: Context) -> str:
        while not ctx.cancelled:
            time.sleep(0.005)
        return "all of it"

    @app.job
    async def coroutine(ctx: Context) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "all of it"
        raise AssertionError

    job = (thread if colour == "thread" else coroutine).new()
    await accept(pool, job)
    async with at_work(pool, app) as runner:
        await until(pool, RUNNING, 1)
        await stop(pool, job)
        row = await ended(pool, job.id)
        assert not runner.recycling
    assert (row["status"], row["result"]) == ("completed", "all of it")


async def test_a_job_that_waits_in_the_workers_buffer_is_not_started(pool: Pool) -> None:
    app = StarForge()
    may_end = asyncio.Event()
    started: list[int] = []

    @app.job
    async def waits(n: int) -> None:
        started.append(n)
        if n >= 3000:
            await may_end.wait()

    jobs = [waits.new(n) for n in range(3005)]
    async with pool.connection() as conn:
        await enqueue_many(conn, jobs)
    async with at_work(pool, app, concurrency=2):
        await until(pool, "SELECT count(*) FROM queue_jobs", 5)
        async with pool.connection() as conn:
            await cancel(conn, [job.id for job in jobs[3002:]], reason="not wanted")
        may_end.set()
        await until(pool, "SELECT count(*) FROM queue_jobs", 0)
    async with pool.connection() as conn:
        ends = await conn.fetch(
            "SELECT status, count(*) AS n FROM job_history GROUP BY status ORDER BY status"
        )
    assert sum(row["n"] for row in ends) == 3005
    assert len(started) == next(row["n"] for row in ends if row["status"] == "completed")


async def test_a_cancelled_job_that_commits_its_own_completion_first_has_completed(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def works(ctx: Context) -> None:
        async with ctx.transaction():
            pass
        await asyncio.Event().wait()

    job = works.new()
    await accept(pool, job)
    async with at_work(pool, app) as runner:
        row = await ended(pool, job.id)
        assert row["status"] == "completed"
        assert runner.host.attempts[job.id].written
    assert runner.finisher.finished == 1


# With processes.


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    conn = await connect(database)
    await conn.execute(TABLE)
    yield conn
    await conn.close()


@pytest.mark.parametrize("listens", ["8", "2"])
async def test_a_worker_with_and_without_a_listener_cancels_what_it_runs(
    db: Connection, database: str, listens: str
) -> None:
    job = NewJob("marks.wait", {"seconds": 60.0})
    await enqueue(db, job)
    async with a_worker(database, "tests.worker.marks:app", PG_POOL_MAX=listens):
        await until_row(db, MARKS, 1, "start")
        await cancel(db, [job.id], reason="not wanted")
        await until_row(db, HISTORY, 1)
    assert await db.fetchval("SELECT status FROM job_history") == "cancelled"


async def test_a_job_whose_worker_dies_after_it_was_asked_to_end_is_not_run_again(
    db: Connection, database: str
) -> None:
    job = NewJob("marks.deaf")
    await enqueue(db, job)
    async with a_worker(database, "tests.worker.marks:app") as worker:
        await until_row(db, MARKS, 1, "start")
        await cancel(db, [job.id], reason="not wanted")
        worker.kill()
        await worker.wait()
    rows: Any = None
    async with a_worker(database, "tests.worker.marks:app"):
        await until_row(db, HISTORY, 1)
        rows = await db.fetchrow("SELECT status, reason FROM job_history")
    assert rows is not None
    assert tuple(rows) == ("cancelled", "not wanted")
    assert await db.fetchval(MARKS, "start") == 1
