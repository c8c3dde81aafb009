"""`starforge bench backfill`: what the engine costs beside the work, on databases of the benchmark's own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from starforge.backfill.create.create import create
from starforge.backfill.create.options import Options
from starforge.backfill.select.select import Request
from starforge.backfill.show.reads import list_backfills
from starforge.backfill.show.status import status
from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool, set_tenant
from starforge.db.server import Database
from starforge.dev.bench.figures import Report, conditions, percentiles, ratios, spread
from starforge.dev.bench.fleet import Fleet, fleet, started
from starforge.dev.bench.forecast import figures, forecast
from starforge.dev.bench.noop import HOURS, app
from starforge.dev.bench.pickup import pickups_ms
from starforge.dev.bench.place import Place, place
from starforge.dev.bench.setup import Setup
from starforge.dev.errors import BenchStalledError
from starforge.ops.perform import perform
from starforge.telemetry.process import forget_peak, memory_of

TENANT = "default"
CONCURRENCY = 16
STALL_S = 180.0
POLL_S = 0.02
READS = 30
PAUSES = 3
LIVE_JOBS = 300
LIVE_PARTITIONS = 200_000
SEEDS = 3
"""Of each simulated kind of backfill."""

RECLAIM_S_MAX = 200.0

CLOSED = "SELECT closed_at IS NOT NULL FROM backfill_jobs WHERE id = $1"
TOOK = """
SELECT extract(epoch FROM completed_at - started_at)::float8 AS s, completed_partitions, state
FROM backfill_jobs WHERE id = $1
"""
RUNS = "SELECT EXISTS (SELECT FROM backfill_partitions WHERE backfill_job_id = $1 AND state = 'running')"
SOME_DONE = "SELECT completed_partitions > 0 FROM backfill_jobs WHERE id = $1"
RELEASED = "SELECT worker_id IS NULL AND state = 'paused' FROM backfill_jobs WHERE id = $1"
LAST_END = """
SELECT extract(epoch FROM clock_timestamp() - max(completed_at))::float8
FROM backfill_partitions WHERE backfill_job_id = $1
"""
LEASE_EPOCH = "SELECT lease_epoch FROM backfill_jobs WHERE id = $1"


@dataclass(slots=True)
class Measured:
    """The figures of every round."""

    per_s: dict[int, list[float]] = field(default_factory=dict)
    create_s: list[float] = field(default_factory=list)
    create_mb: list[float] = field(default_factory=list)
    status_ms: list[float] = field(default_factory=list)
    list_ms: list[float] = field(default_factory=list)
    pause_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    killed_s: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)


async def bench_backfill(
    server: Database, *, small: int, large: int, rounds: int, live_rounds: int, role: str, report: Report
) -> dict[str, Any]:
    """Measure and return the figures.

    Args:
        server: Where to make the benchmark's own databases; they are dropped again.
        small: Partitions of the small backfill.
        large: Partitions of the large one; 0: none.
        rounds: How often each is measured.
        live_rounds: Pairs of rounds of live traffic, alone and beside a backfill.
        role: Database role of the workers.
        report: Called with a line about each phase.
    """
    found = Measured(per_s={size: [] for size in (small, large) if size})
    about: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        for size in found.per_s:
            report(f"round {number} of {rounds}: {size} partitions that do nothing")
            about = await _overhead(server, role, size, found)
    report("pause, and a coordinator that is killed")
    await _control(server, role, found)
    for number in range(1, live_rounds + 1):
        report(f"live round {number} of {live_rounds}: alone, and beside a backfill at full speed")
        await _live(server, role, found)
    report("estimates of simulated backfills")
    eta = figures(await asyncio.to_thread(forecast, SEEDS))
    per_s = {str(size): spread(rates) for size, rates in found.per_s.items()}
    flat = {"flat": ratios(found.per_s[small], found.per_s[large])} if large else {}
    return {
        "partitions_per_s": per_s,
        **flat,
        "create_s": spread(found.create_s),
        "create_mb": spread(found.create_mb),
        "status_ms": percentiles(found.status_ms),
        "list_ms": percentiles(found.list_ms),
        "pause_s": spread(found.pause_s),
        "reclaim_s": {"told": spread(found.told_s), "killed": spread(found.killed_s)},
        "eta_hit_ratio": eta["eta_hit_ratio"],
        "eta_before_p90_ratio": eta["eta_before_p90_ratio"],
        "live_p95_ms": {"alone": spread(found.alone_ms), "beside": spread(found.beside_ms)},
        "live_p95_ratio": ratios(found.beside_ms, found.alone_ms),
        "conditions": {**about, "small": small, "large": large, "concurrency": CONCURRENCY, "role": role},
    }


# ---- parts


@asynccontextmanager
async def _worker(here: Place, workers: int = 1) -> AsyncIterator[Fleet]:
    """Run one more worker for the length of a `with` block; so many there are then."""
    async with fleet(here.url, processes=1, concurrency=2 * CONCURRENCY) as running:
        await started(here.admin, workers)
        yield running


async def _created(conn: Connection, asset: str, size: int) -> UUID:
    last = HOURS.label(HOURS.first + size - 1)
    request = Request(asset=asset, first=HOURS.label(HOURS.first), last=last)
    async with conn.transaction():
        await set_tenant(conn, TENANT)
        options = Options(concurrency=CONCURRENCY)
        made = await create(conn, app.assets, request, options, tenant=TENANT, actor="bench")
    return made.backfills[-1].id


async def _overhead(server: Database, role: str, size: int, found: Measured) -> dict[str, Any]:
    """Create a backfill, let one worker do it, and read it meanwhile."""
    largest = size == max(found.per_s)
    async with place(server, role) as here:
        about = await conditions(here.admin)
        await _created(here.conn, "bench.warm", 100)  # loads what every creation needs
        forget_peak()
        before, began_s = memory_of(os.getpid()), monotonic_s()
        backfill_id = await _created(here.conn, "bench.partition", size)
        if largest:
            found.create_s.append(monotonic_s() - began_s)
            after = memory_of(os.getpid())
            assert before is not None
            assert after is not None
            found.create_mb.append((after.peak_bytes - before.rss_bytes) / 1e6)
        async with _worker(here):
            if largest:
                await _until(here.admin, SOME_DONE, backfill_id)
                await _reads(here.conn, backfill_id, found)
            await _until(here.admin, CLOSED, backfill_id)
        row = await here.admin.fetchrow(TOOK, backfill_id)
        assert row is not None
        if (row["state"], row["completed_partitions"]) != ("completed", size):
            done = f"{row['completed_partitions']} of {size} partitions"
            raise BenchStalledError(f"the backfill is {row['state']} with {done}")
        found.per_s[size].append(size / row["s"])
    return about


async def _reads(conn: Connection, backfill_id: UUID, found: Measured) -> None:
    for _ in range(READS):
        found.status_ms.append(await _timed_ms(partial(status, conn, backfill_id)))
        found.list_ms.append(await _timed_ms(partial(list_backfills, conn)))


async def _timed_ms(read: Callable[[], Awaitable[object]]) -> float:
    began_s = monotonic_s()
    await read()
    return (monotonic_s() - began_s) * 1000


async def _control(server: Database, role: str, found: Measured) -> None:
    """Pause and resume a backfill at work; then kill who coordinates it, with and without a reclaim."""
    async with place(server, role) as here:
        pool = await Pool.open(here.url, size=2)
        try:
            backfill_id = await _created(here.conn, "bench.partition_slow", 20_000)
            async with _worker(here) as first:
                for _ in range(PAUSES):
                    await _until(here.admin, RUNS, backfill_id)
                    await _act(pool, "backfill pause", backfill_id)
                    await _until(here.admin, RELEASED, backfill_id)
                    found.pause_s.append(await here.admin.fetchval(LAST_END, backfill_id))
                    await _act(pool, "backfill resume", backfill_id)
                await _until(here.admin, RUNS, backfill_id)
                async with _worker(here, 2) as second:
                    found.told_s.append(await _killed(here, first, pool, backfill_id))
                    async with _worker(here, 2):
                        found.killed_s.append(await _killed(here, second, None, backfill_id))
        finally:
            await pool.close()


async def _killed(here: Place, workers: Fleet, pool: Pool | None, backfill_id: UUID) -> float:
    """Kill a worker that coordinates; return the seconds until another one does. With a pool it is told."""
    epoch = await here.admin.fetchval(LEASE_EPOCH, backfill_id)
    for pid in workers.pids:
        os.killpg(pid, signal.SIGKILL)
    began_s = monotonic_s()
    if pool is not None:
        await _act(pool, "backfill reclaim", backfill_id)
        epoch += 1
    async with asyncio.timeout(RECLAIM_S_MAX):
        while await here.admin.fetchval(LEASE_EPOCH, backfill_id) <= epoch:
            await asyncio.sleep(POLL_S)
    return monotonic_s() - began_s


async def _act(pool: Pool, name: str, backfill_id: UUID) -> None:
    arguments = {"job_id": str(backfill_id), "reason": "measured"}
    await perform(pool, name, arguments, actor="bench", role="admin", tenant=TENANT)


async def _live(server: Database, role: str, found: Measured) -> None:
    """Measure the pick-up of live jobs, alone and beside a backfill at full speed."""
    for times, partitions in ((found.alone_ms, 0), (found.beside_ms, LIVE_PARTITIONS)):
        async with place(server, role) as here, _worker(here) as workers:
            # Its process is there, and has met both kinds of work, before anything is measured.
            await _until(here.admin, CLOSED, await _created(here.conn, "bench.warm", 100))
            if partitions:
                backfill_id = await _created(here.conn, "bench.partition", partitions)
                await _until(here.admin, SOME_DONE, backfill_id)
            times.append((await pickups_ms(here, workers, LIVE_JOBS, Setup().pickup))["p95"])
            if partitions and await here.admin.fetchval(CLOSED, backfill_id):
                raise BenchStalledError("the backfill beside the live jobs was over before they were")


async def _until(admin: Connection, query: str, backfill_id: UUID) -> None:
    async with asyncio.timeout(STALL_S):
        while not await admin.fetchval(query, backfill_id):
            await asyncio.sleep(POLL_S)
