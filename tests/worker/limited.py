"""An app for tests: types under limits and rates; its jobs leave marks, as those of `tests.worker.marks`."""

from __future__ import annotations

import asyncio

from starforge.app import StarForge
from starforge.queue.declare import Limit, Rate
from starforge.queue.handler import Context
from tests.worker.marks import mark

app = StarForge("limited")

TOTAL = 3
PER_KEY = 2
PACE = Rate(40.0, 4)


@app.job("limited.total", limit=TOTAL)
async def total(ctx: Context, seconds: float) -> None:
    await _marked(ctx, seconds)


@app.job("limited.keyed", limit=Limit(per_key=PER_KEY, key="key"))
async def keyed(ctx: Context, key: str, seconds: float) -> None:
    await _marked(ctx, seconds)


@app.job("limited.paced", rate=PACE)
async def paced(ctx: Context) -> None:
    await mark(ctx, "start")


@app.job("limited.free")
async def free(ctx: Context, seconds: float) -> None:
    await _marked(ctx, seconds)


async def _marked(ctx: Context, seconds: float) -> None:
    await mark(ctx, "start")
    await asyncio.sleep(seconds)
    await mark(ctx, "end")
