"""Single enqueues: what one costs over a bare INSERT, and how many eight connections make."""

from __future__ import annotations

import asyncio
from typing import Any

from starforge.clock import monotonic_s
from starforge.db.pool import connect
from starforge.dev.bench.figures import ratios, spread
from starforge.dev.bench.fleet import Fleet
from starforge.dev.bench.load import drain, hold
from starforge.dev.bench.place import Place
from starforge.dev.bench.setup import Setup
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob

BLOCKS = 10
BLOCK = 100
CONNECTIONS = 8

BARE = """
INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, limit_key, tags, trace)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
"""The same row by hand, without what an enqueue checks, keys or announces."""


async def single_enqueues(
    here: Place, workers: Fleet, setup: Setup, *, blocks: int = BLOCKS
) -> dict[str, Any]:
    """Measure single enqueues while the queue is held, each its own commit.

    Blocks of enqueues and of bare INSERTs of the same rows take turns on one connection; each pair of
    blocks gives one ratio.
    """
    await hold(here.admin)
    ours, bare = [], []
    for block in range(blocks):
        started_s = monotonic_s()
        for number in range(BLOCK):
            await enqueue(here.conn, setup.job(block * BLOCK + number))
        ours.append(BLOCK / (monotonic_s() - started_s))
        started_s = monotonic_s()
        for number in range(BLOCK):
            await here.conn.execute(BARE, *_row(setup.job(block * BLOCK + number)))
        bare.append(BLOCK / (monotonic_s() - started_s))
    each = blocks * BLOCK // 2
    together = await _together(here.url, setup, each)
    await drain(here, workers, 2 * blocks * BLOCK + CONNECTIONS * each)
    return {
        "single_per_s": spread(ours)["median"],
        "bare_insert_per_s": spread(bare)["median"],
        "single_to_bare_insert": ratios(ours, bare),
        f"single_{CONNECTIONS}_connections_per_s": together,
    }


def _row(job: NewJob) -> tuple[object, ...]:
    return (
        job.id, job.tenant or "default", job.queue, job.type, job.payload, job.priority, job.limit_key,
        list(job.tags) or None, job.trace,
    )  # fmt: skip


async def _together(url: str, setup: Setup, each: int) -> float:
    connections = [await connect(url, application="starforge bench") for _ in range(CONNECTIONS)]
    try:
        started_s = monotonic_s()

        async def produce(first: int) -> None:
            for number in range(first, first + each):
                await enqueue(connections[first // each], setup.job(number))

        await asyncio.gather(*(produce(place * each) for place in range(CONNECTIONS)))
        return round(CONNECTIONS * each / (monotonic_s() - started_s))
    finally:
        for connection in connections:
            await connection.close()
