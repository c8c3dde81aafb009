"""An app for tests: its jobs leave a mark in table `marks` when they start and when they end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress

from starforge.app import StarForge
from starforge.queue.handler import Context

TABLE = (
    "CREATE TABLE marks (job_id uuid, worker_id uuid, what text, at timestamptz DEFAULT clock_timestamp());"
    "GRANT ALL ON marks TO PUBLIC"
)

app = StarForge("marks")


async def mark(ctx: Context, what: str) -> None:
    async with ctx.pool.connection() as conn:
        await conn.execute("INSERT INTO marks VALUES ($1, $2, $3)", ctx.job.id, ctx.worker_id, what)


@app.job("marks.wait")
async def wait(ctx: Context, seconds: float) -> None:
    await mark(ctx, "start")
    await asyncio.sleep(seconds)
    await mark(ctx, "end")


@app.job("marks.die_first")
async def die_first(ctx: Context) -> None:
    """Kill the process on the first run, end well on the second."""
    async with ctx.pool.connection() as conn:
        before = await conn.fetchval("SELECT count(*) FROM marks WHERE job_id = $1", ctx.job.id)
    await mark(ctx, "start")
    if before == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    await mark(ctx, "end")


@app.job("marks.deaf")
async def deaf(ctx: Context) -> None:
    """Go on whatever happens."""
    await mark(ctx, "start")
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@app.job("marks.overdue_thread")
def overdue_thread(ctx: Context) -> None:
    """Go on for ever at the first attempt, end well at the second."""
    ctx.wait(mark(ctx, "start"))
    while ctx.attempt == 1:
        time.sleep(0.01)


@app.job("marks.overdue_coroutine")
async def overdue_coroutine(ctx: Context) -> None:
    """Go on for ever at the first attempt, end well at the second."""
    await mark(ctx, "start")
    while ctx.attempt == 1:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@app.job("marks.leave")
async def leave(ctx: Context) -> None:
    """End the process as a program's main function may."""
    sys.exit(2)
