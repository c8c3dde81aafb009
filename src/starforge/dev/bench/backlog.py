"""`starforge bench backlog`: does a queue that is long, or has much in front that may not run, get slow?

Every variant is measured in every round, each on a database of its own, and compared within the round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from starforge.db.pool import Connection
from starforge.db.server import Database
from starforge.dev.bench.figures import Report, conditions, percentiles, ratios, shown, spread
from starforge.dev.bench.fleet import fleet, started
from starforge.dev.bench.load import close_gates, drain, hold, lay, settle, warm
from starforge.dev.bench.marks import now_s
from starforge.dev.bench.place import place

EARLY_S = 60.0
DELAYED_S = 24 * 3600.0
AHEAD = 10
"""The priority of what lies in front; the jobs that can run have 0."""

PAUSED_TYPE, UNKNOWN_TYPE = "bench.noop_paused", "bench.unknown"
HIGH_MEMORY_TYPE = "bench.noop_high_memory"

Lay = Callable[[Connection], Awaitable[None]]


@dataclass(slots=True)
class Variant:
    """What lies in the queue before the workers may start, and what was measured of it."""

    name: str
    jobs: int
    ahead: Lay | None = None
    per_s: list[float] = field(default_factory=list)
    early_per_s: list[float] = field(default_factory=list)
    claims_ms: list[list[float]] = field(default_factory=list)
    early_claims_ms: list[list[float]] = field(default_factory=list)
    """Those of the first jobs only, as many as the short queue has: what the length alone does to a claim."""

    def claimed(self, claims: Sequence[tuple[float, int]], early: int) -> None:
        """Note the claims of a round, (ms, jobs) in their order."""
        before = accumulate((jobs for _, jobs in claims), initial=0)
        self.claims_ms.append([took_ms for took_ms, _ in claims])
        self.early_claims_ms.append(
            [took_ms for (took_ms, _), jobs in zip(claims, before, strict=False) if jobs < early]
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures of all rounds."""
        every = [claim for claims in self.claims_ms for claim in claims]
        return {
            "jobs": self.jobs,
            "drain_per_s": spread(self.per_s),
            "first_jobs_per_s": spread(self.early_per_s),
            "claim_ms": percentiles(every),
            "first_claims_ms": percentiles([claim for claims in self.early_claims_ms for claim in claims]),
        }


async def bench_backlog(
    server: Database,
    *,
    jobs: int,
    small: int,
    delayed: int,
    held: int,
    rounds: int,
    processes: int,
    concurrency: int,
    role: str,
    report: Report,
) -> dict[str, Any]:
    """Compare the drain of a long queue with that of a short one, in interleaved rounds.

    Args:
        server: Where to make the databases.
        jobs: Length of the long queue.
        small: Length of the short one.
        delayed: Jobs of a higher priority that are due tomorrow, in front of a short queue.
        held: Where it is more than 0: paused, unknown and high-memory jobs in front of a short queue are
            compared with the short queue alone, and nothing else is measured.
        rounds: How often each is measured.
        processes: Worker processes.
        concurrency: Jobs that each runs at once.
        role: Database role of the workers.
        report: Called with a line about each phase.
    """
    base = Variant("small", small)
    others = (
        [Variant("held", small, _held(held))]
        if held
        else [Variant("large", jobs), Variant("delayed", small, _delayed(delayed))]
    )
    variants = [base, *others]
    about: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        for variant in variants:
            report(f"round {number} of {rounds}: {variant.name}, {variant.jobs} jobs that can run")
            about = await _measure(server, variant, small, processes, concurrency, role)
            report(f"  {shown(variant.per_s[-1]):g} jobs/s")
    return {
        **_headline(base, others[0]),
        **{
            f"{other.name}_{name}": value
            for other in others
            for name, value in _compared(other, base).items()
        },
        "variants": {variant.name: variant.figures() for variant in variants},
        "sizes": {"jobs": jobs, "small": small, "delayed": delayed, "held": held},
        "rounds": rounds,
        "processes": processes,
        "concurrency": concurrency,
        "role": role,
        "server": about,
    }


def _headline(base: Variant, other: Variant) -> dict[str, Any]:
    compared = _compared(other, base)
    return {
        "drain_per_s": spread(other.per_s)["median"],
        "small_per_s": spread(base.per_s)["median"],
        "ratio": compared["ratio"]["median"],
        "claim_p99_ratio": compared["claim_p99_ratio"]["median"],
        "first_claim_p99_ratio": compared["first_claim_p99_ratio"]["median"],
    }


def _compared(other: Variant, base: Variant) -> dict[str, Any]:
    return {
        "ratio": ratios(other.per_s, base.per_s),
        "claim_p99_ratio": ratios(_p99_ms(other.claims_ms), _p99_ms(base.claims_ms)),
        "first_claim_p99_ratio": ratios(_p99_ms(other.early_claims_ms), _p99_ms(base.early_claims_ms)),
    }


def _p99_ms(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [percentiles(claims)["p99"] for claims in rounds]


async def _measure(
    server: Database, variant: Variant, early: int, processes: int, concurrency: int, role: str
) -> dict[str, Any]:
    async with (
        place(server, role) as here,
        fleet(here.url, processes=processes, concurrency=concurrency) as workers,
    ):
        await started(here.admin, processes)
        await warm(here)
        await hold(here.admin)
        if variant.ahead is not None:
            await variant.ahead(here.admin)
        await lay(here.admin, variant.jobs)
        await settle(here.admin)
        since_s = now_s()
        drained = await drain(here, workers, variant.jobs)
        variant.per_s.append(drained.per_s)
        first = await here.admin.fetchval(FIRST, drained.since, min(early, variant.jobs))
        variant.early_per_s.append(float(first))
        variant.claimed(workers.marks.claims(since_s), early)
        return await conditions(here.admin)


FIRST = """
SELECT $2::int / extract(epoch FROM max(completed_at) - min(started_at))::float8
FROM (SELECT started_at, completed_at FROM job_history
      WHERE type LIKE 'bench.noop%' AND started_at >= $1 ORDER BY completed_at LIMIT $2) AS early
"""


def _delayed(jobs: int) -> Lay:
    async def ahead(admin: Connection) -> None:
        if jobs:
            await lay(admin, jobs, priority=AHEAD, in_s=DELAYED_S)

    return ahead


def _held(jobs: int) -> Lay:
    """A third each: of a paused type, of one that no worker knows, and of one that needs more memory."""

    async def ahead(admin: Connection) -> None:
        await close_gates(admin, "type", [PAUSED_TYPE])
        for name in (PAUSED_TYPE, UNKNOWN_TYPE, HIGH_MEMORY_TYPE):
            await lay(admin, jobs // 3, type=name, priority=AHEAD, in_s=-EARLY_S)

    return ahead
