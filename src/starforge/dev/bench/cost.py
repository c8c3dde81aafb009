"""`starforge bench features`: what each feature costs, switched on alone, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starforge.db.server import Database
from starforge.dev.bench.features import FEATURES, Feature
from starforge.dev.bench.features import shown as settings
from starforge.dev.bench.figures import Report, conditions, ratios, shown, spread
from starforge.dev.bench.setup import Setup, enqueue_and_drain, running

NONE, ALL = "none", "all"


async def bench_features(
    server: Database,
    *,
    jobs: int,
    names: Sequence[str],
    rounds: int,
    processes: int,
    concurrency: int,
    role: str,
    report: Report,
) -> dict[str, Any]:
    """Drain with each feature alone, with none, and with all; `cost_ratio` is the share of the rate it costs.

    Args:
        server: Where to make the databases.
        jobs: Jobs of each drain.
        names: Features to price; each of them and all together where empty.
        rounds: How often each is measured; the order is turned from round to round.
        processes: Worker processes.
        concurrency: Jobs that each process runs at once.
        role: Database role of producer and workers.
        report: Called with a line about each phase.
    """
    variants: dict[str, tuple[Feature, ...]] = {NONE: ()}
    variants |= {feature.name: (feature,) for feature in FEATURES if not names or feature.name in names}
    if not names:
        variants[ALL] = FEATURES
    drains: dict[str, list[float]] = {name: [] for name in variants}
    enqueues: dict[str, list[float]] = {name: [] for name in variants}
    about: dict[str, Any] = {}
    for number in range(rounds):
        order = list(variants)
        order = order[number % len(order) :] + order[: number % len(order)]
        for name in order:
            setup = Setup(processes, concurrency, role, variants[name])
            async with running(server, setup) as (here, workers):
                enqueued, drained = await enqueue_and_drain(here, workers, setup, jobs)
                about = await conditions(here.admin)
            enqueues[name].append(enqueued)
            drains[name].append(drained)
            report(f"round {number + 1} of {rounds}: {name}, {shown(drained):g} jobs/s")
    alone = [name for name in variants if name != NONE]
    return {
        "cost_ratio": {name: _cost(drains[name], drains[NONE]) for name in alone},
        "enqueue_cost_ratio": {name: _cost(enqueues[name], enqueues[NONE]) for name in alone},
        "flow_control": [feature.name for feature in FEATURES if feature.flow],
        "settings": settings(FEATURES),
        "kept_ratio": {name: ratios(drains[name], drains[NONE]) for name in alone},
        "drain_per_s": {name: spread(drains[name]) for name in variants},
        "jobs": jobs,
        "rounds": rounds,
        "processes": processes,
        "concurrency": concurrency,
        "role": role,
        "server": about,
    }


def _cost(these: Sequence[float], none: Sequence[float]) -> float:
    return shown(1 - ratios(these, none)["median"])
