"""What running jobs say of themselves, and where the next attempt goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from starforge.app import StarForge
from starforge.db.pool import Connection, Pool
from starforge.queue.context import Context
from starforge.queue.declare import Retry
from starforge.queue.enqueue import enqueue
from starforge.queue.errors import LeaseLostError
from starforge.queue.job import NewJob
from starforge.queue.progress import forget, last_checkpoint, save_checkpoint
from starforge.queue.reclaim import reclaim
from starforge.worker.registry import bury
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed
from tests.worker.at_work import accept, at_work, ended, until

NOW = Retry(attempts=5, base_s=0.01, max_s=0.01)
ROWS = "SELECT count(*) FROM job_progress"


async def test_what_a_job_says_of_its_progress_is_seen_while_it_runs_and_gone_when_it_is_through(
    pool: Pool,
) -> None:
    app = StarForge()
    may_end = asyncio.Event()

    @app.job
    async def works(ctx: Context) -> None:
        for n in range(1000):
            ctx.progress(n, 1000, f"at {n}\0")
        await may_end.wait()

    job_id = await accept(pool, works.new())
    async with at_work(pool, app), pool.connection() as conn:
        await until(pool, "SELECT done FROM job_progress", 999.0)
        state = await app.job_state(job_id, conn=conn)
        assert (state.status, state.done, state.total) == ("running", 999.0, 1000.0)
        assert state.message == "at 999\N{REPLACEMENT CHARACTER}"
        may_end.set()
        await ended(pool, job_id)
        await until(pool, ROWS, 0)


async def test_the_next_attempt_goes_on_where_the_last_one_had_come_to(pool: Pool) -> None:
    app = StarForge()
    did: list[int] = []

    @app.job(retry=NOW)
    async def imports(ctx: Context) -> None:
        at = await ctx.last_checkpoint() or 0
        for n in range(at, 6):
            did.append(n)
            await ctx.checkpoint(n + 1)
            if n in (1, 3) and ctx.attempt <= 2:
                raise ValueError("in between")

    job_id = await accept(pool, imports.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
        await until(pool, ROWS, 0)
    assert (row["status"], row["attempts"]) == ("completed", 2)
    assert did == [0, 1, 2, 3, 4, 5]


async def test_a_job_that_completes_in_its_own_transaction_leaves_no_progress_behind(pool: Pool) -> None:
    app = StarForge()

    @app.job
    async def works(ctx: Context) -> None:
        await ctx.checkpoint({"at": 1})
        async with ctx.transaction():
            pass

    job_id = await accept(pool, works.new())
    async with at_work(pool, app), pool.connection() as conn:
        await ended(pool, job_id)
        assert await conn.fetchval(ROWS) == 0


@pytest.mark.parametrize("value", [object(), "x" * 70_000])
async def test_a_checkpoint_that_cannot_be_kept_is_the_jobs_own_failure(pool: Pool, value: Any) -> None:
    app = StarForge()

    @app.job(retry=5)
    async def works(ctx: Context) -> None:
        await ctx.checkpoint(value)

    job_id = await accept(pool, works.new())
    async with at_work(pool, app):
        row = await ended(pool, job_id)
    assert row["status"] == "failed"
    assert row["last_error"]["reason"].startswith("the checkpoint ")


@covers("D-12")
async def test_a_zombie_moves_no_checkpoint_and_no_progress(conn: Connection) -> None:
    await enqueue(conn, NewJob("t"))
    old = await a_worker(conn)
    [stale] = await claimed(conn, old)
    assert await save_checkpoint(conn, stale, "1", worker_id=old)
    await bury(conn, old, "killed")
    await reclaim(conn)
    new = await a_worker(conn)
    [fresh] = await claimed(conn, new)
    assert await last_checkpoint(conn, fresh.id) == 1
    assert await save_checkpoint(conn, fresh, "2", worker_id=new)
    assert not await save_checkpoint(conn, stale, "3", worker_id=old)
    assert not await save_checkpoint(conn, stale, "3", worker_id=new)
    assert await last_checkpoint(conn, fresh.id) == 2
    await forget(conn, [fresh.id])
    assert await last_checkpoint(conn, fresh.id) is None


async def test_a_handler_that_lost_its_lease_is_told_at_its_next_checkpoint(pool: Pool) -> None:
    app = StarForge()
    told: list[str] = []

    @app.job
    async def works(ctx: Context) -> None:
        async with ctx.pool.connection() as conn:
            await conn.execute("UPDATE queue_jobs SET lease_epoch = lease_epoch + 1")
        try:
            await ctx.checkpoint(1)
        except LeaseLostError as error:
            told.append(error.code)
            raise

    await accept(pool, works.new())
    async with at_work(pool, app) as runner:
        async with asyncio.timeout(10):
            while runner.finisher.lost == 0:
                await asyncio.sleep(0.01)
    assert told == ["SF201"]
