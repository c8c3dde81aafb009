"""`starforge bench queue`: enqueue, drain and pick-up rates of the real path, on a database of its own.

Workers are real ones: supervisor, child, claim, attempt, finish, history kept, fsync as the server has it.
The drain is taken from the database's clock: from the first claim to the last completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from starforge.db.server import Database
from starforge.dev.bench.bouncer import pgbouncer
from starforge.dev.bench.calibrate import calibrate
from starforge.dev.bench.features import shown as settings
from starforge.dev.bench.figures import Report, conditions, ratios, shown, spread
from starforge.dev.bench.load import SYNC_TYPE
from starforge.dev.bench.memory import memory
from starforge.dev.bench.pickup import PICKUPS, pickups_ms
from starforge.dev.bench.setup import Setup, enqueue_and_drain, running
from starforge.dev.bench.single import BLOCKS, single_enqueues
from starforge.dev.bench.wal import WAL_JOBS, wal_per_job


@dataclass(slots=True)
class Measured:
    """The figures of every round with one number of processes."""

    setup: Setup
    enqueue_per_s: list[float] = field(default_factory=list)
    drain_per_s: list[float] = field(default_factory=list)
    pickup_ms: list[dict[str, float]] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    def figures(self, calibration: Sequence[float]) -> dict[str, Any]:
        """Return medians with their spread."""
        return {
            "processes": self.setup.processes,
            "enqueue_per_s": spread(self.enqueue_per_s),
            "drain_per_s": spread(self.drain_per_s),
            "drain_to_calibration": ratios(self.drain_per_s, calibration),
            "pickup_ms": {
                name: spread([round_[name] for round_ in self.pickup_ms]) for name in ("p50", "p95", "p99")
            },
            "worker_rss_mb": spread(self.rss_mb),
        }


async def bench_queue(
    server: Database,
    setup: Setup,
    *,
    jobs: int,
    processes: Sequence[int],
    rounds: int,
    report: Report,
    pickups: int = PICKUPS,
    single_blocks: int = BLOCKS,
    wal_jobs: int = WAL_JOBS,
    sync: bool = False,
    pooled: bool = False,
    memory_jobs: int = 0,
) -> dict[str, Any]:
    """Measure and return the figures; those of the first number of processes stand at the top.

    Args:
        server: Where to make the benchmark's own databases; they are dropped again.
        setup: How the workers run.
        jobs: No-op jobs to enqueue and drain.
        processes: Numbers of worker processes, measured in turn in every round.
        rounds: How often each is measured.
        report: Called with a line about each phase.
        pickups: Jobs whose pick-up is timed.
        single_blocks: Blocks of 100 single enqueues on one connection.
        wal_jobs: Jobs over which the write-ahead log is measured.
        sync: Measure handlers in threads in every round too, with one process.
        pooled: Let producer and workers go through a PgBouncer in transaction mode.
        memory_jobs: Jobs over which memory is measured; 0: it is not.
    """
    calibration: list[float] = []
    single: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        if pooled:
            setup = replace(setup, through=await stack.enter_async_context(pgbouncer(server, setup.role)))
        variants = [Measured(replace(setup, processes=number)) for number in processes]
        blocking = Measured(replace(setup, processes=1, type=SYNC_TYPE))
        for number in range(1, rounds + 1):
            report(f"round {number} of {rounds}: calibrating")
            calibration.append(await calibrate(server))
            for variant in (*variants, blocking) if sync else variants:
                await _measure(server, variant, jobs, pickups, report)
        report("measuring single enqueues and the write-ahead log")
        async with running(server, variants[0].setup) as (here, workers):
            single = await single_enqueues(here, workers, variants[0].setup, blocks=single_blocks)
            wal = await wal_per_job(here, workers, variants[0].setup, jobs=wal_jobs)
            about = await conditions(here.admin)
    every = [variant.figures(calibration) for variant in variants]
    first = every[0]
    return {
        "jobs": jobs,
        "calibration_per_s": spread(calibration)["median"],
        "enqueue_per_s": first["enqueue_per_s"]["median"],
        "drain_per_s": first["drain_per_s"]["median"],
        "drain_to_calibration": first["drain_to_calibration"]["median"],
        "pickup_ms": {name: value["median"] for name, value in first["pickup_ms"].items()},
        "by_processes": every,
        **({"sync_per_s": spread(blocking.drain_per_s)} if sync else {}),
        "calibration": spread(calibration),
        **single,
        **wal,
        **(
            {"memory": await memory(server, variants[0].setup, report, jobs=memory_jobs)}
            if memory_jobs
            else {}
        ),
        "features": settings(setup.features),
        "pgbouncer": "transaction mode" if pooled else "none",
        "rounds": rounds,
        "concurrency": setup.concurrency,
        "role": setup.role,
        "server": about,
    }


async def _measure(server: Database, variant: Measured, jobs: int, pickups: int, report: Report) -> None:
    async with running(server, variant.setup) as (here, workers):
        enqueued, drained = await enqueue_and_drain(here, workers, variant.setup, jobs)
        variant.enqueue_per_s.append(enqueued)
        variant.drain_per_s.append(drained)
        variant.pickup_ms.append(await pickups_ms(here, workers, pickups, variant.setup.pickup))
        variant.rss_mb.append(max(workers.rss_mb()))
    report(
        f"  {variant.setup.type}, {variant.setup.processes} worker process(es):"
        f" {shown(enqueued):g} enqueued/s, {shown(drained):g} drained/s,"
        f" pick-up p50 {variant.pickup_ms[-1]['p50']:g} ms"
    )
