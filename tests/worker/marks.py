"""An app for tests: its jobs leave a mark in table `marks` when they start and when they end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from starforge.app import StarForge
from starforge.db.pool import Connection
from starforge.queue.handler import Context, JobType, PermanentError
from starforge.queue.job import LeasedJob

APP = "tests.worker.marks:app"
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


def overflow() -> None:
    """Go deeper than the stack of the process, in C."""
    sys.setrecursionlimit(10**9)
    nest: list[Any] = []
    for _ in range(10**6):
        nest = [nest]
    repr(nest)


HARM: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(2),
    "exit 0": lambda: os._exit(0),
    "segv": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "overflow": overflow,
    "nothing": lambda: None,
}


async def _harm(ctx: Context, how: str, after_s: float = 0.0) -> None:
    await mark(ctx, "start")
    await asyncio.sleep(after_s)
    HARM[how]()
    await mark(ctx, "end")


@app.job("marks.harm")
async def harm(ctx: Context, how: str, after_s: float = 0.0) -> None:
    """Harm the process that it runs in."""
    await _harm(ctx, how, after_s)


@app.job("marks.once")
async def once(ctx: Context) -> None:
    """Leave one mark, at the start."""
    await mark(ctx, "start")


def _block(seconds: float, lock: bool) -> None:
    if not lock:
        time.sleep(seconds)
    elif seconds < 60:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    else:
        sum(range(10**14))  # no signal ends that


@app.job("marks.block")
async def block(ctx: Context, seconds: float, lock: bool = False) -> None:
    """Keep the event loop, and with `lock` the interpreter too, from everybody else."""
    await mark(ctx, "start")
    _block(seconds, lock)
    await mark(ctx, "end")


async def note_loss(conn: Connection, job: LeasedJob, evidence: Mapping[str, Any]) -> None:
    await conn.execute(
        "INSERT INTO marks VALUES ($1, $2, $3)",
        job.id,
        None,
        f"lost: {evidence['cause']}, {evidence['verdict']}",
    )


class OddError(Exception):
    """An error that takes more than its text."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what} ({code})")
        self.code, self.what = code, what


@app.job("apart.where", isolated=True)
async def where(ctx: Context) -> None:
    """Say which process this is, who its parent is, and what the context tells."""
    print("printed by a handler")
    async with ctx.pool.transaction(tenant=ctx.tenant) as one, ctx.pool.connection() as two:
        seen = f"{os.getpid()} {os.getppid()} {ctx.attempt} {await one.fetchval('SELECT sf_tenant()')}"
        await two.execute("INSERT INTO marks VALUES ($1, $2, $3)", ctx.job.id, ctx.worker_id, seen)


@app.job("apart.fail", isolated=True)
async def fail(ctx: Context, how: str) -> None:
    if how == "permanent":
        raise PermanentError("never") from OddError(7, "odd")
    raise OddError(7, "odd")


@app.job("apart.late", isolated=True, timeout=0.3)
async def late(ctx: Context, blocks: bool) -> None:
    """Start a process of its own and do not end in time."""
    sleeper = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - it starts at once
    await mark(ctx, f"start {sleeper.pid}")
    if blocks:
        time.sleep(600)  # noqa: ASYNC251 - the fault that is tested
    await asyncio.sleep(600)


@app.job("apart.hungry", isolated=True, memory_bytes_max=160_000_000)
async def hungry(ctx: Context, megabytes: int) -> None:
    """Take so much memory."""
    await mark(ctx, "start")
    taken = []
    for _ in range(megabytes):
        taken.append(bytes(1_000_000))
    await mark(ctx, f"took {len(taken)}")


@app.job("apart.harm", isolated=True)
async def harm_apart(ctx: Context, how: str) -> None:
    await mark(ctx, "start")
    HARM[how]()


@app.job("apart.wait", isolated=True)
async def wait_apart(ctx: Context, seconds: float) -> None:
    await mark(ctx, f"start {os.getpid()}")
    await asyncio.sleep(seconds)


@app.job("apart.block", isolated=True)
async def block_apart(ctx: Context, seconds: float, lock: bool = False) -> None:
    await mark(ctx, f"start {os.getpid()}")
    _block(seconds, lock)
    await mark(ctx, "end")


async def _fill(ctx: Context, payload: Mapping[str, Any]) -> None:
    """Take memory until the kernel has none to give."""
    await mark(ctx, "start")
    taken = []
    while True:
        taken.append(b"x" * 10_000_000)
        await asyncio.sleep(0)


app.job_types().add(JobType("marks.fill", _fill, lost=note_loss))
app.job_types().add(JobType("marks.die", lambda ctx, payload: _harm(ctx, **payload), lost=note_loss))
