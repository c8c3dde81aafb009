"""`starforge bench pinned`: what a long transaction in another session does to the drain rate.

Its snapshot keeps every dead row and index entry, so whoever scans from the head of the queue walks over
more of them with every job that was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from starforge.db.pool import Connection, connect
from starforge.db.server import Database
from starforge.dev.bench.figures import Report, conditions, shown
from starforge.dev.bench.fleet import Fleet, fleet, started
from starforge.dev.bench.load import noop_job, warm
from starforge.dev.bench.place import Place, place
from starforge.dev.errors import BenchStalledError
from starforge.queue.enqueue import enqueue_many

WINDOW_S = 20.0
SETTLE_S = 2.0
STEP_S = 10.0
BATCH = 5000
FULL_S = 0.005


async def bench_pinned(
    server: Database,
    *,
    seconds: float,
    processes: int,
    concurrency: int,
    depth: int,
    role: str,
    control: bool,
    report: Report,
) -> dict[str, Any]:
    """Drain a queue that producers keep full while another session holds a REPEATABLE READ snapshot.

    Args:
        server: Where to make the benchmark's own database.
        seconds: How long; the first and the last 20 s of it are compared (half of it where it is short).
        processes: Worker processes.
        concurrency: Jobs that each runs at once.
        depth: Jobs that wait at any time.
        role: Database role of producer and workers.
        control: Measure the same without the snapshot first, to show what the machine does by itself.
        report: Called with a line about each phase.
    """
    figures: dict[str, Any] = {
        "seconds": seconds, "processes": processes, "concurrency": concurrency, "depth": depth, "role": role
    }  # fmt: skip
    for pinned in (False, True) if control else (True,):
        report(f"draining for {seconds:g} s {'under a snapshot' if pinned else 'without a snapshot'}")
        async with place(server, role) as here:
            figures["server"] = await conditions(here.admin)
            async with fleet(here.url, processes=processes, concurrency=concurrency) as workers:
                await started(here.admin, processes)
                await warm(here)
                found = await _measure(here, workers, seconds, depth, pinned=pinned)
        figures |= found if pinned else {f"unpinned_{name}": value for name, value in found.items()}
    return figures


async def _measure(
    here: Place, workers: Fleet, seconds: float, depth: int, *, pinned: bool
) -> dict[str, Any]:
    enqueued = workers.marks.counted()
    async with _snapshot(here.admin_url, pinned) as session:
        stop = asyncio.Event()
        producer = asyncio.create_task(_keep_full(here.conn, workers, enqueued, depth, stop))
        try:
            await asyncio.sleep(SETTLE_S)
            since: datetime = await here.admin.fetchval("SELECT sf_now()")
            await asyncio.wait({producer}, timeout=seconds)
        finally:
            stop.set()
            await producer
        if session is not None and not await session.fetchval("SELECT true"):
            raise BenchStalledError("the session that held the snapshot is gone")
        return await _rates(here.admin, since, seconds)


@asynccontextmanager
async def _snapshot(url: str, pinned: bool) -> AsyncIterator[Connection | None]:
    """Hold a REPEATABLE READ snapshot for the length of a `with` block, where it is wanted."""
    if not pinned:
        yield None
        return
    session = await connect(url, application="starforge bench snapshot")
    try:
        await session.execute("SET idle_in_transaction_session_timeout = 0")
        await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await session.fetchval("SELECT count(*) FROM queue_jobs")
        yield session
    finally:
        await session.close()


async def _keep_full(
    conn: Connection, workers: Fleet, enqueued: int, depth: int, stop: asyncio.Event
) -> None:
    """Enqueue whenever fewer than `depth` jobs wait; the workers' own counts say how many that are."""
    while not stop.is_set():
        if enqueued - workers.marks.counted() >= depth:
            await asyncio.sleep(FULL_S)
            continue
        await enqueue_many(conn, [noop_job(number) for number in range(BATCH)])
        enqueued += BATCH


COMPLETED = """
SELECT floor(extract(epoch FROM completed_at - $1)::float8)::int AS second, count(*) AS jobs
FROM job_history WHERE completed_at >= $1 GROUP BY second
"""


async def _rates(admin: Connection, since: datetime, seconds: float) -> dict[str, Any]:
    """Return the rates of the first and the last window, and of every ten seconds between them."""
    found: dict[int, int] = {row["second"]: row["jobs"] for row in await admin.fetch(COMPLETED, since)}
    window = int(min(WINDOW_S, max(1.0, seconds // 2)))
    end = int(seconds)

    def per_s(first: int, last: int) -> float:
        return sum(found.get(second, 0) for second in range(first, last)) / (last - first)

    first_per_s, last_per_s = per_s(0, window), per_s(end - window, end)
    step = int(min(STEP_S, end))
    return {
        "first_per_s": shown(first_per_s),
        "last_per_s": shown(last_per_s),
        "ratio": shown(last_per_s / first_per_s) if first_per_s else 0.0,
        "per_s": [shown(per_s(second, second + step)) for second in range(0, end - step + 1, step)],
    }
