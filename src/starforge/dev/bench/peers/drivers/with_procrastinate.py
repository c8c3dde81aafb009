"""procrastinate's side of the comparison: set up, enqueue, time pick-ups, work. In its own environment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import procrastinate
import uvloop
from marking import counted, mark_pickup

BATCH = 10_000
CONCURRENCY = 30
EVERY_S = 0.02

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["DATABASE_URL"], min_size=4, max_size=CONCURRENCY + 2
    )
)


@app.task(name="noop")
async def noop(n: int) -> None:
    """Do nothing but be counted."""
    counted()


@app.task(name="pickup")
async def pickup(n: int) -> None:
    """Write down that the job is at its first instruction."""
    mark_pickup(n)


async def enqueue(jobs: int) -> float:
    """Enqueue by batch_defer, which is one statement each."""
    batches = [
        [{"n": number} for number in range(first, min(first + BATCH, jobs))]
        for first in range(0, jobs, BATCH)
    ]
    started_s = time.monotonic()
    for batch in batches:
        await noop.batch_defer_async(*batch)
    return time.monotonic() - started_s


async def pickups(jobs: int) -> list[float]:
    """Enqueue one at a time and return when each enqueue was through."""
    sent = []
    for number in range(jobs):
        await pickup.defer_async(n=number)
        sent.append(time.time())
        await asyncio.sleep(EVERY_S)
    return sent


async def main() -> None:
    """Do what the first argument says; answer in JSON."""
    command, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    async with app.open_async():
        if command == "setup":
            await app.schema_manager.apply_schema_async()
        elif command == "enqueue":
            print(json.dumps(await enqueue(count)))
        elif command == "pickups":
            print(json.dumps(await pickups(count)))
        else:
            await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=True)


uvloop.run(main())
