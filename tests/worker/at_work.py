"""A worker's runner in the test's own process, for the types of an app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.worker.overdue import Overdue
from starforge.worker.registry import Registration, register
from starforge.worker.run import Runner


@asynccontextmanager
async def at_work(
    pool: Pool, app: StarForge, *, concurrency: int = 4, overdue: list[Overdue] | None = None
) -> AsyncIterator[Runner]:
    """Run a worker for an app under a lease of a minute, until the block ends."""
    types = app.job_types()
    async with pool.connection() as conn:
        worker_id = await register(conn, Registration(("default",), types.names(), concurrency), lease_s=60)
    runner = Runner(
        pool,
        types,
        worker_id,
        queues=("default",),
        concurrency=concurrency,
        poll_s=0.05,
        tell_overdue=(overdue if overdue is not None else []).append,
    )
    running = asyncio.create_task(runner.run(grace_s=1.0, hurry=asyncio.Event()))
    try:
        yield runner
        assert not running.done() or runner.recycling, "the worker stopped by itself"
    finally:
        runner.stop()
        await asyncio.wait_for(running, 15)


async def until(pool: Pool, query: str, wanted: Any, *arguments: object) -> None:
    """Wait until a query gives what is wanted."""
    async with asyncio.timeout(20), pool.connection() as conn:
        while await conn.fetchval(query, *arguments) != wanted:
            await asyncio.sleep(0.01)


async def accept(pool: Pool, job: NewJob) -> UUID:
    """Enqueue one job and return its id."""
    async with pool.connection() as conn:
        await enqueue(conn, job)
    return job.id


async def ended(pool: Pool, job_id: UUID) -> dict[str, Any]:
    """Wait until a job neither waits nor runs, and return what the database has of it."""
    live = "SELECT status FROM queue_jobs WHERE id = $1 AND status IN ('pending', 'running')"
    async with asyncio.timeout(20), pool.connection() as conn:
        while await conn.fetchval(live, job_id) is not None:
            await asyncio.sleep(0.01)
        row = await conn.fetchrow("SELECT * FROM queue_jobs WHERE id = $1", job_id)
        if row is None:
            row = await conn.fetchrow("SELECT * FROM job_history WHERE id = $1", job_id)
    assert row is not None
    return dict(row)
