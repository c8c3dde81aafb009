"""`starforge bench queue`: enqueue, drain and pick-up rates of the real path, on a database of its own.

Workers are real ones: supervisor, child, claim, attempt, finish, history kept, fsync as the server has it.
The drain is taken from the database's clock: from the first claim to the last completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starforge.db.server import Database
from starforge.dev.bench.calibrate import calibrate
from starforge.dev.bench.figures import Report, conditions, ratios, shown, spread
from starforge.dev.bench.fleet import fleet, started
from starforge.dev.bench.load import drained, enqueue_all, hold, release, settle, warm
from starforge.dev.bench.pickup import PICKUPS, pickups_ms
from starforge.dev.bench.place import place


@dataclass(slots=True)
class Measured:
    """The figures of every round with one number of processes."""

    processes: int
    enqueue_per_s: list[float] = field(default_factory=list)
    drain_per_s: list[float] = field(default_factory=list)
    pickup_ms: list[dict[str, float]] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    def figures(self, calibration: Sequence[float]) -> dict[str, Any]:
        """Return medians with their spread."""
        return {
            "processes": self.processes,
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
    *,
    jobs: int,
    processes: Sequence[int],
    concurrency: int,
    rounds: int,
    role: str,
    report: Report,
    pickups: int = PICKUPS,
) -> dict[str, Any]:
    """Measure and return the figures; those of the first number of processes stand at the top.

    Args:
        server: Where to make the benchmark's own databases; they are dropped again.
        jobs: No-op jobs to enqueue and drain.
        processes: Numbers of worker processes, measured in turn in every round.
        concurrency: Jobs that each worker runs at once.
        rounds: How often each is measured.
        role: Database role of producer and workers: engine (bound by row security) or admin.
        report: Called with a line about each phase.
        pickups: Jobs whose pick-up is timed.
    """
    variants = [Measured(number) for number in processes]
    calibration: list[float] = []
    about: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        report(f"round {number} of {rounds}: calibrating")
        calibration.append(await calibrate(server))
        for variant in variants:
            about = await _measure(server, variant, jobs, concurrency, role, pickups, report)
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
        "calibration": spread(calibration),
        "rounds": rounds,
        "concurrency": concurrency,
        "role": role,
        "server": about,
    }


async def _measure(
    server: Database, variant: Measured, jobs: int, concurrency: int, role: str, pickups: int, report: Report
) -> dict[str, Any]:
    async with (
        place(server, role) as here,
        fleet(here.url, processes=variant.processes, concurrency=concurrency) as workers,
    ):
        await started(here.admin, variant.processes)
        await warm(here)
        await hold(here.admin)
        variant.enqueue_per_s.append(await enqueue_all(here.conn, jobs))
        await settle(here.admin)
        since = await release(here.admin)
        variant.drain_per_s.append(await drained(here, workers, since, jobs))
        variant.pickup_ms.append(await pickups_ms(here, workers, pickups))
        variant.rss_mb.append(max(workers.rss_mb()))
        report(
            f"  {variant.processes} worker process(es): {shown(variant.enqueue_per_s[-1]):g} enqueued/s,"
            f" {shown(variant.drain_per_s[-1]):g} drained/s, pick-up p50 {variant.pickup_ms[-1]['p50']:g} ms"
        )
        return await conditions(here.admin)
