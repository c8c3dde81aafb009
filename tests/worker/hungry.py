"""An app for tests: its jobs hold memory, write lines, and hang."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from starforge.app import StarForge
from starforge.queue.handler import Context
from tests.worker.marks import mark

app = StarForge("hungry")
MB = 1_000_000
KEPT: list[bytearray] = []


def _block(mb: int) -> bytearray:
    """Memory that is really there."""
    return bytearray(b"x") * (mb * MB)


@app.job("hungry.hold")
async def hold(ctx: Context, mb: int, seconds: float) -> None:
    """Hold memory for a while."""
    await mark(ctx, "start")
    held = _block(mb)
    await asyncio.sleep(seconds)
    del held
    await mark(ctx, "end")


@app.job("hungry.keep")
async def keep(ctx: Context, mb: int) -> None:
    """Take memory and never give it back."""
    await mark(ctx, "start")
    KEPT.append(_block(mb))
    await mark(ctx, "end")


@app.job("hungry.small")
async def small(ctx: Context, seconds: float = 0.0) -> None:
    """Need nothing."""
    await mark(ctx, "start")
    await asyncio.sleep(seconds)
    await mark(ctx, "end")


@app.job("hungry.talk")
async def talk(ctx: Context, text: str, times: int = 1) -> None:
    """Print lines."""
    for number in range(times):
        print(text.format(number=number))
    await mark(ctx, "end")


@app.job("hungry.late")
async def late(seconds: float, text: str) -> None:
    """Print a line after a while."""
    await asyncio.sleep(seconds)
    print(text)


@app.job("hungry.shout")
async def shout(ctx: Context) -> None:
    """Say something by every way there is: the log, standard output, standard error, a traceback."""
    import structlog

    structlog.get_logger("hungry").warning("hungry.said", dish="soup")
    await asyncio.to_thread(structlog.get_logger("hungry").info, "hungry.threaded")
    print("plain words")
    sys.stderr.write("Traceback (most recent call last):\n  File 'x'\nValueError: burnt\nafterwards\n")
    os.write(1, "half a line, \0 and \udcff".encode(errors="surrogatepass"))
    await mark(ctx, "end")


@app.job("hungry.die")
async def die(ctx: Context) -> None:
    """Say a last word and leave the process at once."""
    await mark(ctx, "start")
    print("my last words")
    os._exit(9)


@app.job("hungry.fail_first")
async def fail_first(ctx: Context) -> None:
    """Fail on the first attempt."""
    if ctx.attempt == 1:
        raise ValueError("not yet")


@app.job("hungry.feast_highmem")
async def feast(ctx: Context) -> None:
    """Ask for a high-memory worker, by name."""
    await mark(ctx, "end")


@app.job("hungry.hang_first")
async def hang_first(ctx: Context, seconds: float) -> None:
    """Hold the loop on the first run, end well on the second."""
    async with ctx.pool.connection() as conn:
        before = await conn.fetchval("SELECT count(*) FROM marks WHERE job_id = $1", ctx.job.id)
    await mark(ctx, "start")
    if before == 0:
        time.sleep(seconds)  # noqa: ASYNC251 - that is the fault
    await mark(ctx, "end")
