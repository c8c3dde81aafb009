"""Memory: what a worker's child holds while idle, and how much more after a million jobs."""

from __future__ import annotations

import asyncio
from typing import Any

from starforge.db.server import Database
from starforge.dev.bench.features import environment
from starforge.dev.bench.figures import Report
from starforge.dev.bench.fleet import fleet, started
from starforge.dev.bench.load import drain, hold, lay, settle
from starforge.dev.bench.place import place
from starforge.dev.bench.setup import Setup

JOBS = 1_000_000
CHUNK = 100_000
IDLE_S = 2.0


async def memory(server: Database, setup: Setup, report: Report, *, jobs: int = JOBS) -> dict[str, Any]:
    """Return the greatest child's resident memory, in MB: idle, and after every 100 000 jobs.

    Growth is against the idle child that has run nothing yet, so what the first jobs load is in it.
    """
    report(f"measuring memory over {jobs} jobs")
    async with (
        place(server, setup.role) as here,
        fleet(
            here.url,
            processes=setup.processes,
            concurrency=setup.concurrency,
            environment=environment(setup.features),
        ) as workers,
    ):
        await started(here.admin, setup.processes)
        await asyncio.sleep(IDLE_S)
        idle_mb = max(workers.rss_mb())
        after_mb: list[float] = []
        left = jobs
        while left:
            chunk = min(CHUNK, left)
            await hold(here.admin)
            await lay(here.admin, chunk)
            await settle(here.admin)
            await drain(here, workers, chunk)
            left -= chunk
            after_mb.append(max(workers.rss_mb()))
        return {
            "idle_mb": idle_mb,
            "after_mb": after_mb,
            "growth_mb": round(after_mb[-1] - idle_mb, 1),
            "growth_after_first_mb": round(after_mb[-1] - after_mb[0], 1),
            "jobs": jobs,
        }
