"""Simulated backfills: how often the ETA holds what it says, by the shape of the work.

A backfill is played through on a clock of its own: so many slots, durations drawn from a shape, a throttle
that comes and goes, pauses, failures that are retried. At even steps the estimator is asked, and what it
said is held against when the backfill really ended. The dice are seeded: the same figures everywhere.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from starforge.backfill.estimate.eta import Estimator, Eta, Pulse
from starforge.backfill.pace.pace import slots_of
from starforge.dev.dice import Dice

LOOKS = 120
"""Looks at each backfill, evenly over the time that it takes about."""

CHECKED_FROM = 0.05
"""Checks count from this share of the work on."""

SIZES = (200, 1_000, 5_000)
CONCURRENCIES = (1, 4, 16)

Draw = Callable[[Dice, float], float]


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of backfill."""

    name: str
    draw: Draw
    """Draws a duration in seconds, given where in the job the partition stands, in [0, 1]."""

    throttled: bool = False
    pauses: int = 0
    failures: float = 0.0
    """Share of the attempts that fail and are retried."""

    retry_after_s: float = 2.0
    workers: float = 1.0
    """So many partitions really run at once, as a share of the concurrency."""

    gap_s: float = 0.0
    """How long a slot stays empty between two partitions."""


@dataclass(slots=True)
class Hits:
    """How often the end lay where it was said to lie."""

    checks: int = 0
    within: int = 0
    before_p90: int = 0
    width: float = 0.0
    """Sum over checks of (p90 - p10) / p50."""

    off: float = 0.0
    """Sum over checks of |p50 - true| as a share of the whole job's time."""

    def __iadd__(self, other: Hits) -> Hits:
        self.checks += other.checks
        self.within += other.within
        self.before_p90 += other.before_p90
        self.width += other.width
        self.off += other.off
        return self

    def shares(self) -> dict[str, float]:
        """Return the ratios, and the means of width and error."""
        n = max(self.checks, 1)
        return {
            "eta_hit_ratio": round(self.within / n, 3),
            "eta_before_p90_ratio": round(self.before_p90 / n, 3),
            "eta_width": round(self.width / n, 3),
            "eta_off": round(self.off / n, 3),
        }


def lognormal(sigma: float, mean_s: float = 2.0) -> Draw:
    """Durations that are skewed: a lognormal with this mean."""
    centre = math.log(mean_s) - sigma**2 / 2

    def draw(dice: Dice, _: float) -> float:
        # Box and Muller: of the dice, only random() is the same under every Python
        radius = math.sqrt(-2 * math.log(1 - dice.random()))
        return math.exp(centre + sigma * radius * math.cos(2 * math.pi * dice.random()))

    return draw


def bimodal(dice: Dice, _: float) -> float:
    """One partition of ten takes twenty times as long as the others."""
    return (10.0 if dice.chance(0.1) else 0.5) * (0.8 + 0.4 * dice.random())


def constant(_: Dice, __: float) -> float:
    """All take the same."""
    return 2.0


def drifting(dice: Dice, position: float) -> float:
    """The last ones take twice as long as the first."""
    return lognormal(0.7)(dice, position) * (1 + position) / 1.5


SHAPES = (
    Shape("constant", constant),
    Shape("lognormal 0.5", lognormal(0.5)),
    Shape("lognormal 1.0", lognormal(1.0)),
    Shape("lognormal 1.5", lognormal(1.5)),
    Shape("bimodal", bimodal),
    Shape("drifting x2", drifting),
    Shape("slots wait between", lognormal(0.7, 0.2), gap_s=0.2),
    Shape("workers for a quarter", lognormal(0.7), workers=0.25),
    Shape("throttled, workers for half", lognormal(0.7), workers=0.5, throttled=True),
    Shape("throttled, lognormal 0.5", lognormal(0.5), throttled=True),
    Shape("throttled, lognormal 1.0", lognormal(1.0), throttled=True),
    Shape("throttled, lognormal 1.5", lognormal(1.5), throttled=True),
    Shape("throttled, bimodal", bimodal, throttled=True),
    Shape("throttled, drifting x2", drifting, throttled=True),
    Shape("pauses, lognormal 1.0", lognormal(1.0), pauses=3),
    Shape("failures 10 %, lognormal 1.0", lognormal(1.0), failures=0.1),
    Shape("failures 10 %, retried late", lognormal(0.7), failures=0.1, retry_after_s=30.0),
    Shape("all of it", drifting, throttled=True, pauses=2, failures=0.05, gap_s=0.02),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One answer of the estimator and when the backfill really ended."""

    at_s: float
    done: float
    """The share of its partitions that were terminal."""

    eta: Eta
    paused_s: float
    """How long it had been paused by then."""

    end_s: float = math.nan
    paused_in_all_s: float = 0.0

    @property
    def true_s(self) -> float:
        """How long it went on from there, without the pauses that began later: nobody foretells those."""
        return self.end_s - self.at_s - (self.paused_in_all_s - self.paused_s)


class Run:
    """One backfill on its own clock."""

    def __init__(self, shape: Shape, partitions: int, concurrency: int, dice: Dice) -> None:
        self.shape, self.partitions, self.concurrency, self.dice = shape, partitions, concurrency, dice
        self.estimator = Estimator(partitions)
        self.now_s = self.paused_s = 0.0
        self.checks: list[Check] = []
        self.terminal = 0
        self._durations = [shape.draw(dice, index / partitions) for index in range(partitions)]
        self._able = max(1, int(concurrency * shape.workers))
        self._length_s = sum(self._durations) / self._able
        self._waiting = list(range(partitions - 1, -1, -1))
        self._running: list[tuple[float, float, int]] = []  # when it ends, since when, which
        self._retries: list[tuple[float, int]] = []  # when, which
        self._gaps: list[float] = []  # until when a slot stays empty
        self._pauses = sorted(self._length_s * dice.random() for _ in range(shape.pauses))
        self._throttle = self._spells() if shape.throttled else iter(())
        self._next_share = next(self._throttle, (math.inf, 1.0))
        self._slots = concurrency
        self._look_s = 0.0

    def play(self) -> list[Check]:
        """Run to the end; return what was answered on the way, with the time of the end."""
        while self.terminal < self.partitions:
            if self._pauses and self._pauses[0] <= self.now_s:
                self._pause()
            self._start()
            self._step()
        return [replace(check, end_s=self.now_s, paused_in_all_s=self.paused_s) for check in self.checks]

    def _start(self) -> None:
        """Start as many as may run now."""
        while self._retries and self._retries[0][0] <= self.now_s:
            self._waiting.append(heapq.heappop(self._retries)[1])
        while self._gaps and self._gaps[0] <= self.now_s:
            heapq.heappop(self._gaps)
        most = min(self._slots, self._able)
        while self._waiting and len(self._running) + len(self._gaps) < most:
            index = self._waiting.pop()
            heapq.heappush(self._running, (self.now_s + self._durations[index], self.now_s, index))

    def _step(self) -> None:
        """Go to what happens next."""
        ends_s = self._running[0][0] if self._running else math.inf
        self.now_s = min(
            ends_s,
            self._look_s,
            self._next_share[0],
            self._retries[0][0] if self._retries else math.inf,
            self._gaps[0] if self._gaps else math.inf,
            self._pauses[0] if self._pauses else math.inf,
        )
        if self.now_s == self._look_s:
            self._look_s += self._length_s / LOOKS
            self._look()
        elif self.now_s == self._next_share[0]:
            self._slots = slots_of(self.concurrency, self._next_share[1])
            self._next_share = next(self._throttle)
        elif self.now_s == ends_s:
            self._end()

    def _end(self) -> None:
        """End the attempt that is due."""
        ends_s, since_s, index = heapq.heappop(self._running)
        self.now_s = max(self.now_s, ends_s)
        if self.shape.gap_s:
            heapq.heappush(self._gaps, self.now_s + self.shape.gap_s)
        if self.dice.chance(self.shape.failures):
            wait_s = self.shape.retry_after_s
            self.estimator.finish(ends_s - since_s, "retried")
            self.estimator.wait(wait_s)
            heapq.heappush(self._retries, (self.now_s + wait_s, index))
            return
        self.estimator.finish(ends_s - since_s)
        self.terminal += 1

    def _pause(self) -> None:
        """Let those end that run, start none, and go on after a while."""
        while self._running:
            self._end()
        self.estimator.pause(self.now_s)
        lost_s = self._length_s * self.dice.random() / 2
        self.now_s += lost_s
        self.paused_s += lost_s
        self.estimator.resume(self.now_s)
        self._pauses = [at_s + lost_s for at_s in self._pauses[1:]]
        at_s, share = self._next_share
        self._next_share = (max(at_s, self.now_s), share)
        self._look_s = max(self._look_s, self.now_s)

    def _look(self) -> None:
        said = self.estimator.look(
            Pulse(
                now_s=self.now_s,
                left=self.partitions - self.terminal,
                ages_s=[self.now_s - since_s for _, since_s, _ in self._running],
                slots=self._slots,
                concurrency=self.concurrency,
                retry_in_s=max((at_s - self.now_s for at_s, _ in self._retries), default=0.0),
            )
        )
        done = self.terminal / self.partitions
        if isinstance(said, Eta) and done >= CHECKED_FROM:
            self.checks.append(Check(self.now_s, done, said, self.paused_s))

    def _spells(self) -> Iterator[tuple[float, float]]:
        """Yield when the share of the concurrency changes, and to what."""
        open_s = self._length_s / (4 + self.dice.below(12))
        low_s = open_s * (0.2 + 0.8 * self.dice.random())
        at_s = 0.0
        while True:
            at_s += -math.log(1 - self.dice.random()) * open_s
            yield max(at_s, self.now_s), self.dice.pick((0.5, 0.25, 0.25, 0.1, 0.0))
            at_s += -math.log(1 - self.dice.random()) * low_s
            yield max(at_s, self.now_s), 1.0


def hits(checks: Iterable[Check]) -> Hits:
    """Count how often the end lay where it was said to lie."""
    found = Hits()
    for check in checks:
        true_s = check.true_s
        found.checks += 1
        found.within += check.eta.p10_s <= true_s <= check.eta.p90_s
        found.before_p90 += true_s <= check.eta.p90_s
        found.width += (check.eta.p90_s - check.eta.p10_s) / check.eta.p50_s
        found.off += abs(check.eta.p50_s - true_s) / check.end_s
    return found


def forecast(
    seeds: int, partitions: Sequence[int] = SIZES, concurrencies: Sequence[int] = CONCURRENCIES
) -> dict[str, Hits]:
    """Play every shape at every size, so many seeds each; return what was hit, by shape."""
    found = {shape.name: Hits() for shape in SHAPES}
    for shape, count, concurrency, seed in product(SHAPES, partitions, concurrencies, range(seeds)):
        dice = Dice(f"{shape.name}/{count}/{concurrency}/{seed}")
        found[shape.name] += hits(Run(shape, count, concurrency, dice).play())
    return found


def figures(found: Mapping[str, Hits]) -> dict[str, Any]:
    """Return the ratios over all and by shape, as a benchmark tells them."""
    every = Hits()
    for each in found.values():
        every += each
    return {**every.shares(), "by_shape": {name: each.shares() for name, each in found.items()}}
