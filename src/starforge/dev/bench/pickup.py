"""Pick-up: how long a job waits for its handler where nothing else is to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from starforge.clock import monotonic_s
from starforge.dev.bench.figures import percentiles
from starforge.dev.bench.fleet import Fleet
from starforge.dev.bench.load import Make
from starforge.dev.bench.marks import Marks
from starforge.dev.bench.place import Place
from starforge.dev.errors import BenchStalledError
from starforge.queue.enqueue import enqueue

PICKUPS = 300
EVERY_S = 0.02
IDLE_S = 0.3
STALL_S = 30.0


async def pickups_ms(place: Place, workers: Fleet, jobs: int, make: Make) -> dict[str, float]:
    """Return percentiles, in ms, from an enqueue's commit to its handler's first instruction."""
    sent: dict[int, float] = {}
    await asyncio.sleep(IDLE_S)
    for number in range(jobs):
        await enqueue(place.conn, make(number))
        sent[number] = time.time()
        await asyncio.sleep(EVERY_S)
    return percentiles(await waits_ms(workers.marks, sent))


async def waits_ms(marks: Marks, sent: Mapping[int, float]) -> list[float]:
    """Wait until every job was picked up and return how long each took from its enqueue's end, in ms."""
    deadline_s = monotonic_s() + STALL_S
    while len(seen := dict(marks.pickups())) < len(sent):
        if monotonic_s() > deadline_s:
            raise BenchStalledError(f"{len(seen)} of {len(sent)} pick-ups were seen within {STALL_S:g} s")
        await asyncio.sleep(0.05)
    return [(at_s - sent[number]) * 1000 for number, at_s in seen.items()]
