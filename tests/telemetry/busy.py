"""An app for tests: a job that ends well, one that fails, and an asset whose partitions do so, or neither."""

from __future__ import annotations

import asyncio

from starforge.app import Named, Partition, StarForge, Static

app = StarForge("busy")


@app.job("busy.work")
async def work(n: int) -> None: ...


@app.job("busy.fail", retry=1)
async def fail() -> None:
    raise OSError("no route")


@app.asset("busy.parts", partitions=Static("one", "two", "three", "bad", "endless"), retries=0, concurrency=5)
async def make(part: Partition[Named]) -> None:
    if part.key == "bad":
        raise OSError("no route")
    if part.key == "endless":
        await asyncio.Event().wait()
