"""Bounds: what restricts one lane beside gates: slots, a worker's share, a batch, a pace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starforge.queue.declare import Rate
from starforge.queue.gate import Gate
from starforge.queue.handler import JobTypes
from starforge.queue.job import LeasedJob
from starforge.queue.limit import Limited
from starforge.queue.override import Overrides

if TYPE_CHECKING:
    from starforge.queue.plan import LaneKey

LANES_MAX = 10_000
"""The bounds of so many lanes are remembered."""


@dataclass(frozen=True, slots=True)
class Slots:
    """A limit over all workers: so many jobs of this run at once."""

    limited: Limited
    limit: int


@dataclass(frozen=True, slots=True)
class Share:
    """A limit per worker: so many jobs of the type are in hand here at once."""

    limited: Limited
    limit: int


@dataclass(frozen=True, slots=True)
class Batch:
    """So many jobs of the type are claimed at a time."""

    type: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Pace:
    """So many jobs of this start per second, over all workers."""

    bucket: Limited
    rate: Rate


Bound = Slots | Share | Batch | Pace


class Bounds:
    """The bounds of every lane, by what types declare, operators override, and gates let through."""

    def __init__(self, types: JobTypes, overrides: Overrides, trickling: Sequence[Gate]) -> None:
        self._types, self._overrides = types, overrides
        self._trickles: dict[tuple[str, str], list[Pace]] = {}
        for gate in trickling:
            bucket = Limited("gate", f"{gate.scope}:{gate.name}", gate.cause)
            pace = Pace(bucket, Rate(gate.rate_per_s or 1.0))
            self._trickles.setdefault((gate.scope, gate.name), []).append(pace)
        self._known: dict[LaneKey, tuple[Bound, ...]] = {}
        declared = [types.get(name) for name in types.names()]
        self.any = bool(
            self._trickles
            or overrides.limit
            or overrides.batches
            or any(known.limit is not None or known.rate is not None for known in declared if known)
        )
        """Whether there is any bound at all."""

    def of(self, key: LaneKey) -> tuple[Bound, ...]:
        """Return what restricts a lane."""
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= LANES_MAX:
                self._known.clear()
            found = self._known[key] = tuple(self._work_out(key))
        return found

    def _work_out(self, key: LaneKey) -> Iterator[Bound]:
        known = self._types.get(key.type)
        limit = None if known is None else known.limit
        if (of_queue := self._overrides.limit.get(("queue", key.queue))) is not None:
            yield Slots(Limited("queue", key.queue), of_queue)
        of_type = self._overrides.limit.get(("type", key.type))
        if of_type is None and limit is not None:
            of_type = limit.total
        if of_type is not None:
            yield Slots(Limited("type", key.type), of_type)
        if key.limit_key:
            of_key = self._overrides.limit.get(("key", key.limit_key))
            if of_key is None and limit is not None:
                of_key = limit.per_key
            if of_key is not None:
                yield Slots(Limited("type", key.type, key.limit_key), of_key)
        if limit is not None and limit.per_worker is not None:
            yield Share(Limited("worker", key.type), limit.per_worker)
        if (jobs := self._overrides.batches.get(key.type)) is not None:
            yield Batch(key.type, jobs)
        if known is not None and known.rate is not None:
            yield Pace(Limited("type", key.type), known.rate)
        for name in names_of(key):
            yield from self._trickles.get(name, ())


def names_of(key: LaneKey) -> tuple[tuple[str, str], ...]:
    """Return the (scope, name) by which gates and overrides may mean a lane."""
    return ("queue", key.queue), ("type", key.type), ("tenant", key.tenant)


def counted(jobs: Iterable[LeasedJob]) -> Counter[Limited]:
    """Count jobs in hand under everything that may limit them."""
    used: Counter[Limited] = Counter()
    alike = Counter((job.queue, job.type, job.limit_key) for job in jobs)
    for (queue, job_type, key), count in alike.items():
        used[Limited("queue", queue)] += count
        used[Limited("type", job_type)] += count
        used[Limited("worker", job_type)] += count
        if key:
            used[Limited("type", job_type, key)] += count
    return used
