"""The app that the benchmarks' workers run: jobs that do nothing, and jobs that tell the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from starforge.app import StarForge
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.scheme import Window
from starforge.dev.bench.features import declared, on
from starforge.dev.bench.marks import CLAIM, PICKUP, counter, first_start, note, now_s
from starforge.queue.claim import claim
from starforge.queue.handler import Context
from starforge.queue.job import LeasedJob
from starforge.worker import claimer

app = StarForge("bench")
HOURS = Hourly("1930-01-01T00")
SLOW_S = 0.2
count, first = counter(), first_start()
result = {"ok": True} if on("results") else None


if on("middleware"):

    @app.middleware
    async def around(ctx: Context, call: Callable[[], Awaitable[Any]]) -> Any:
        """Do nothing before and after."""
        return await call()


@app.job("bench.noop", **declared())
async def noop(n: int, text: str = "") -> dict[str, bool] | None:
    """Do nothing but be counted: what is left is the queue's own cost."""
    count[0] += 1
    if not first[0]:
        first[0] = now_s()
    return result


@app.job("bench.noop_sync", **declared())
def noop_sync(n: int, text: str = "") -> dict[str, bool] | None:
    """Do nothing, in a thread."""
    count[0] += 1
    return result


@app.job("bench.noop_paused")
async def noop_paused(n: int) -> None:
    """Do nothing: its type is paused where it is used."""


@app.job("bench.noop_high_memory", high_memory=True)
async def noop_high_memory(n: int) -> None:
    """Do nothing: workers without --high-memory do not know it."""


@app.asset("bench.partition", partitions=HOURS, concurrency=16)
async def partition(hour: Partition[Window]) -> None:
    """Make nothing: what is left is the engine's own cost."""


@app.asset("bench.warm", partitions=HOURS)
async def warm(hour: Partition[Window]) -> None:
    """Make nothing either."""


@app.asset("bench.partition_slow", partitions=HOURS, concurrency=16)
async def partition_slow(hour: Partition[Window]) -> None:
    """Make nothing, and take a fifth of a second for it."""
    await asyncio.sleep(SLOW_S)


@app.job("bench.pickup")
async def pickup(n: int) -> None:
    """Write down (number, wall-clock seconds) at the handler's first instruction."""
    note("pickups", PICKUP.pack(n, time.time()))


def _timed(claims: Callable[..., Awaitable[list[LeasedJob]]]) -> Callable[..., Awaitable[list[LeasedJob]]]:
    """Return the claim with a clock around it: it writes down how long each took."""

    @wraps(claims)
    async def timed(*args: Any, **options: Any) -> list[LeasedJob]:
        started_s = now_s()
        jobs = await claims(*args, **options)
        ended_s = now_s()
        note("claims", CLAIM.pack(ended_s, (ended_s - started_s) * 1000, len(jobs)))
        return jobs

    return timed


# Only in workers that run this app: others know nothing of the clock.
vars(claimer)["claim"] = _timed(claim)
