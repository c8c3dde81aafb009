"""The app of the fault tests: its jobs leave an effect in the database and a line in the history."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from starforge.app import StarForge
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import Window
from starforge.backfill.scheme.window import Daily
from starforge.db.pool import Connection
from starforge.queue.handler import Context
from tests.faults.history import note

TABLE = """
CREATE TABLE effects (job_id uuid, lease_epoch bigint, at timestamptz DEFAULT clock_timestamp());
GRANT ALL ON effects TO PUBLIC;
CREATE TABLE made (backfill_id text, day text, attempt integer);
GRANT ALL ON made TO PUBLIC;
"""
EFFECT = "INSERT INTO effects (job_id, lease_epoch) VALUES ($1, $2)"
MADE = "INSERT INTO made (backfill_id, day, attempt) VALUES ($1, $2, $3)"
EFFECT_S_ENV = "FAULTS_EFFECT_S"

app = StarForge("faults")


def _note(ctx: Context, what: str) -> None:
    job = ctx.job
    note(what, job=job.id, epoch=job.lease_epoch, attempt=job.attempt, worker=ctx.worker_id, pid=os.getpid())


@app.job("faults.effect")
async def effect(ctx: Context) -> None:
    """Write an effect in a transaction of its own; take as long as the worker's environment says."""
    _note(ctx, "started")
    async with ctx.pool.transaction() as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.lease_epoch)
    await asyncio.sleep(float(os.environ.get(EFFECT_S_ENV, "0")))
    _note(ctx, "ended")


@app.job("faults.once")
async def once(ctx: Context) -> None:
    """Write an effect in the transaction that completes the job."""
    _note(ctx, "started")
    async with ctx.transaction() as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.lease_epoch)
        await asyncio.sleep(float(os.environ.get(EFFECT_S_ENV, "0")))
    _note(ctx, "ended")


@app.job("faults.nothing")
async def nothing(ctx: Context, seconds: float = 0.0) -> None:
    """Leave no trace in the database."""
    _note(ctx, "started")
    await asyncio.sleep(seconds)
    _note(ctx, "ended")


@app.job("faults.quiet")
async def quiet() -> None:
    """Leave no trace anywhere: for thousands."""


@app.job("faults.fail")
async def fail(ctx: Context, times: int) -> None:
    """Fail so many times, then end well."""
    _note(ctx, "started")
    if ctx.attempt <= times:
        raise RuntimeError(f"attempt {ctx.attempt} fails")
    _note(ctx, "ended")


@app.job("faults.deadlock")
async def deadlock(ctx: Context, first: int, second: int) -> None:
    """Lock two rows, in the order of the payload."""
    _note(ctx, "started")
    async with ctx.pool.transaction() as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.lease_epoch)
        await conn.execute("UPDATE pairs SET n = n + 1 WHERE id = $1", first)
        await asyncio.sleep(0.05)
        await conn.execute("UPDATE pairs SET n = n + 1 WHERE id = $1", second)
    _note(ctx, "ended")


@app.job("faults.chatter")
async def chatter(ctx: Context, lines: int) -> None:
    """Print more than any pipe holds."""
    _note(ctx, "started")
    for number in range(lines):
        print(f"{number} of {lines} {'x' * 1000}", flush=True)
    _note(ctx, "ended")


@app.job("faults.spill")
async def spill(ctx: Context, folder: str, size_bytes: int) -> None:
    """Write a temporary file."""
    _note(ctx, "started")
    path = Path(folder) / f"spill-{ctx.job.id}"
    try:
        path.write_bytes(b"x" * size_bytes)
    finally:
        path.unlink(missing_ok=True)
    _note(ctx, "ended")


@app.asset("faults.days", partitions=Daily("2024-01-01"), concurrency=2)
async def days(day: Partition[Window], ctx: Context, conn: Connection) -> None:
    """Write an effect in the transaction that completes the partition."""
    await conn.execute(MADE, ctx.job.payload["backfill_id"], day.key, day.attempt)
    note("making", day=day.key, attempt=day.attempt, pid=os.getpid())
    await asyncio.sleep(float(os.environ.get(EFFECT_S_ENV, "0")))
