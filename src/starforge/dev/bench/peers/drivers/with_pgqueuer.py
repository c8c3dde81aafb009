"""pgqueuer's side of the comparison: set up, enqueue, time pick-ups, work. In its own environment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import timedelta

import asyncpg
import uvloop
from marking import counted, mark_pickup
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

BATCH = 10_000
MANAGERS = 2
BATCH_SIZE = 500
EVERY_S = 0.02


async def connect() -> AsyncpgDriver:
    """Open one connection, as its documentation advises for a queue manager."""
    return AsyncpgDriver(await asyncpg.connect(os.environ["DATABASE_URL"]))


async def setup() -> None:
    """Install the tables, with the autovacuum settings that its checklist names."""
    queries = Queries(await connect())
    await queries.install()
    await queries.optimize_autovacuum()


async def enqueue(jobs: int) -> float:
    """Enqueue by lists, which is one statement each."""
    queries = Queries(await connect())
    batches = [
        [json.dumps({"n": number}).encode() for number in range(first, min(first + BATCH, jobs))]
        for first in range(0, jobs, BATCH)
    ]
    started_s = time.monotonic()
    for batch in batches:
        await queries.enqueue(["noop"] * len(batch), list(batch), [0] * len(batch))
    return time.monotonic() - started_s


async def pickups(jobs: int) -> list[float]:
    """Enqueue one at a time and return when each enqueue was through."""
    queries = Queries(await connect())
    sent = []
    for number in range(jobs):
        await queries.enqueue(["pickup"], [str(number).encode()], [0])
        sent.append(time.time())
        await asyncio.sleep(EVERY_S)
    return sent


async def manage() -> None:
    """Run one queue manager."""
    queuer = PgQueuer(await connect())

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        counted()

    @queuer.entrypoint("pickup")
    async def pickup(job: Job) -> None:
        mark_pickup(int(job.payload or b"0"))

    await queuer.run(batch_size=BATCH_SIZE, dequeue_timeout=timedelta(seconds=1))


async def work() -> None:
    """Run several managers in this process, as its own benchmark does."""
    await asyncio.gather(*(manage() for _ in range(MANAGERS)))


async def main() -> None:
    """Do what the first argument says; answer in JSON."""
    command, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if command == "setup":
        await setup()
    elif command == "enqueue":
        print(json.dumps(await enqueue(count)))
    elif command == "pickups":
        print(json.dumps(await pickups(count)))
    else:
        await work()


uvloop.run(main())
