"""When a backfill will end: an interval, from what its partitions took and what was lost to throttling.

The work left is what running partitions still need and the mean duration for each that waits. It is done at
the pace that is allowed now, by as many at once as that has really kept busy so far; from the next change
of the throttle on it is done at another pace, as far as the past tells (`spells.py`). At the end some run
alone: the last one to finish sets the time. An interval says how unsure all of that is.

Paused time is not work and moves nothing but the clock. The state is a few dozen numbers (`state`), stored
with the job, from which the next coordinator goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starforge.backfill.estimate.busy import Busy
from starforge.backfill.estimate.durations import WINDOW, Ahead, Durations, Lognormal
from starforge.backfill.estimate.spells import Spells
from starforge.backfill.estimate.tail import POSSIBLE, SURE, Spread, last_of, levelling, retried_s

UP, DOWN = 1.5, 1.4
"""Standard deviations from the middle to p90 and to p10; more than a normal's 1.28, as the model errs too."""

MODEL_ERROR = 0.03
"""What the model may be off by, as a share of the time left, however much was seen."""

GAP_MOST_S = 60.0
"""Between two looks further apart than this nothing is learnt about how busy the slots were."""

BUSY_S = 120.0
"""How busy the slots were is remembered for this long and ten partitions."""

LEAST_S = 0.001
"""A job that still runs never ends in the past, and not now either."""

UNSURE_MOST = 3.0
"""p90 is at most about twenty times p50."""

STATE_VERSION = 1

Outcome = Literal["completed", "failed", "retried"]


@dataclass(frozen=True, slots=True)
class Pulse:
    """A backfill as one look finds it."""

    now_s: float
    """On any clock that only moves forward; its zero does not matter."""

    left: int
    """Partitions that are not terminal, the running ones included."""

    ages_s: Sequence[float]
    """For how long each running partition has been running."""

    slots: int
    """How many may run at once now, throttled."""

    concurrency: int
    """How many may run at once unthrottled."""

    retry_in_s: float = 0.0
    """How long the last of the partitions that wait for a retry still waits."""


@dataclass(frozen=True, slots=True)
class Eta:
    """The time left, in seconds from now: 8 of 10 jobs end between p10 and p90."""

    p10_s: float
    p50_s: float
    p90_s: float
    basis: str


@dataclass(frozen=True, slots=True)
class NoEta:
    """No end can be told, and why."""

    reason: str


class Estimator:
    """Learns from a backfill as it runs and says when it will end."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.completed = 0
        self.durations = Durations()
        self.spells = Spells()
        self.busy = Busy()
        self.ran_s = self.paused_s = 0.0
        self._retried_s = self._retried = self._delay_s = 0.0
        self._work_s = 0.0  # by what has ended since the last look
        self._last: Pulse | None = None
        self._paused_at_s: float | None = None

    @property
    def average_ms(self) -> float | None:
        """The mean duration of a partition, retries included: the column avg_partition_duration_ms."""
        return self._per_partition_s(self.durations.mean_s) * 1000 if self.done else None

    def finish(self, seconds: float, outcome: Outcome = "completed") -> None:
        """Count an attempt that ended, and how long it ran.

        Args:
            seconds: How long, 0 or more.
            outcome: completed, failed for good, or retried: then its partition is not terminal.
        """
        seconds = max(seconds, 0.0)
        self._work_s += seconds
        if outcome == "retried":
            self._retried += 1
            self._retried_s += seconds
            return
        self.durations.add(seconds, min(self.done / max(self.total, 1), 1.0))
        self.done += 1
        self.completed += outcome == "completed"

    def wait(self, seconds: float) -> None:
        """Count for how long a retried partition is to wait for its next attempt, once that is known."""
        self._delay_s += max(seconds, 0.0)

    def pause(self, now_s: float) -> None:
        """Stop the clock; what was learnt is kept."""
        if self._paused_at_s is None:
            self._paused_at_s = now_s
        self._last = None

    def resume(self, now_s: float, *, paused_s: float | None = None) -> None:
        """Let the clock run again: what has passed since the pause was no work.

        Args:
            now_s: On the clock of the looks.
            paused_s: How long it was paused, where another holder saw the pause.
        """
        if paused_s is None:
            paused_s = 0.0 if self._paused_at_s is None else now_s - self._paused_at_s
        self.paused_s += max(paused_s, 0.0)
        self._paused_at_s, self._last, self._work_s = None, None, 0.0

    def look(self, pulse: Pulse) -> Eta | NoEta:
        """Take in what a look found and return the time left, or why there is none to tell.

        Costs less than a millisecond, whatever the number of partitions.
        """
        self._learn(pulse)
        if pulse.left <= 0:
            return NoEta("nothing is left to run")
        if not self.completed:
            return NoEta("no partition has completed yet; one is needed for an estimate")
        lognormal = self.durations.fit(pulse.ages_s)
        position = (self.done + pulse.left / 2) / max(self.total, 1)
        ahead = self.durations.ahead(min(position, 1.0), lognormal)
        work_s = self._work_ahead_s(pulse, ahead, lognormal)
        if self._paused_at_s is not None:
            return NoEta(f"paused; {_span(work_s / max(pulse.slots, 1))} of work left once it is resumed")
        if pulse.slots <= 0 and not math.isfinite(self.spells.time_for(1.0)[0]):
            return NoEta(
                "the throttle lets no partition start;"
                f" {_span(work_s / max(pulse.concurrency, 1))} of work left without it"
            )
        return self._interval(pulse, ahead, lognormal, work_s)

    # ---- parts: what is learnt

    def _learn(self, pulse: Pulse) -> None:
        """Account for the time since the last look at the pace that was in force in it."""
        last, self._last = self._last, pulse
        share = pulse.slots / max(pulse.concurrency, 1)
        if self._paused_at_s is not None:
            return
        if last is None:
            self.spells.spend(0.0, share)
            self._work_s = 0.0
            return
        spent_s = max(pulse.now_s - last.now_s, 0.0)
        self.ran_s += spent_s
        self.spells.spend(spent_s, share)
        work_s = max(self._work_s + sum(pulse.ages_s) - sum(last.ages_s), 0.0)
        self._work_s = 0.0
        if spent_s > GAP_MOST_S or last.slots <= 0 or last.left < last.slots:
            return
        self.busy.spend(last.slots, spent_s, work_s, BUSY_S + 10 * self.durations.mean_s)

    def _per_partition_s(self, mean_s: float) -> float:
        """Return what a partition costs, with the attempts that failed before its last one."""
        useful_s = self.done * self.durations.mean_s
        return mean_s * (1 + self._retried_s / useful_s) if useful_s else mean_s

    # ---- parts: what is told

    def _work_ahead_s(self, pulse: Pulse, ahead: Ahead, lognormal: Lognormal) -> float:
        """Return the seconds of work left, of one slot."""
        waiting = max(pulse.left - len(pulse.ages_s), 0)
        running_s = sum(lognormal.left_mean_s(age_s) for age_s in pulse.ages_s)
        return waiting * self._per_partition_s(ahead.mean_s) + running_s

    def _interval(self, pulse: Pulse, ahead: Ahead, lognormal: Lognormal, work_s: float) -> Eta:
        """Join the time for the work, the last ones' beyond it, and what retries may add."""
        waiting = max(pulse.left - len(pulse.ages_s), 0)
        if waiting:
            p10, p50, p90 = self._working(pulse, ahead, lognormal, work_s, waiting)
        else:
            p10, p50, p90 = last_of(lognormal, pulse.ages_s)
        alone_s, slow_s = ahead.mean_s, ahead.mean_s * (1 + ahead.scatter)
        if self._retried:
            failing = self._retried / (self._retried + self.done)
            again_s = self._delay_s / self._retried + alone_s
            p50 = retried_s(p50, pulse.left, failing, again_s, SURE)
            p90 = retried_s(p90, pulse.left, failing, again_s, POSSIBLE)
        if pulse.retry_in_s > 0:
            p10 = max(p10, pulse.retry_in_s)
            p50 = max(p50, pulse.retry_in_s + alone_s)
            p90 = max(p90, pulse.retry_in_s + slow_s)
        p10 = max(p10, LEAST_S)
        p50 = max(p50, p10)
        return Eta(p10, p50, max(p90, p50), self._basis(pulse))

    def _working(
        self, pulse: Pulse, ahead: Ahead, lognormal: Lognormal, work_s: float, waiting: int
    ) -> Spread:
        """Return the time left of a job that still has partitions to start."""
        slots = max(pulse.slots, 1)
        busy = self.busy.share(slots, self.durations.mean_s)
        bulk_s, wander = self.spells.time_for(work_s / (max(pulse.concurrency, 1) * busy))
        sums = ahead.scatter**2 / waiting + ahead.unsure**2
        unsure = math.sqrt(sums + wander**2 + MODEL_ERROR**2)
        low_s, middle_s, high_s = levelling(lognormal, max(min(round(slots * busy), pulse.left), 1))
        p50 = max(bulk_s + middle_s, 0.0)
        below_s = math.hypot(bulk_s * -math.expm1(-DOWN * unsure), middle_s - low_s)
        beyond_s = math.hypot(bulk_s * math.expm1(min(UP * unsure, UNSURE_MOST)), high_s - middle_s)
        return max(p50 - below_s, 0.0), p50, p50 + beyond_s

    def _basis(self, pulse: Pulse) -> str:
        """Say what the estimate rests on."""
        n = min(self.done, int(WINDOW))
        words = f"from {n} partition{'' if n == 1 else 's'}"
        if self.ran_s > 0:
            words += f" of the last {_span(self.ran_s * n / self.done)}"
        words += f" at concurrency {pulse.slots}"
        if pulse.slots < pulse.concurrency:
            words += f" (throttled from {pulse.concurrency})"
        if self.spells.throttled >= 0.005:
            words += f"; {self.spells.throttled:.0%} of the time throttled"
        if self._retried:
            words += f"; {self._retried:.0f} attempt{'' if self._retried == 1 else 's'} retried"
        if self.paused_s >= 1:
            words += f"; {_span(self.paused_s)} paused are not counted"
        return words

    # ---- parts: the state

    def state(self) -> dict[str, Any]:
        """Return what was learnt, as JSON has it.

        No clock is in it: the time until the next holder goes on is no work.
        """
        return {
            "v": STATE_VERSION,
            "done": self.done,
            "completed": self.completed,
            "ran_s": self.ran_s,
            "paused_s": self.paused_s,
            "retried": [self._retried, self._retried_s, self._delay_s],
            "busy": self.busy.state(),
            "durations": self.durations.state(),
            "spells": self.spells.state(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any] | None, total: int) -> Estimator:
        """Go on from a stored state; from none, or one that cannot be read, begin anew.

        What is lost with an unreadable one is statistics: a wrong one would be worse than none.
        """
        new = cls(total)
        if state is None or state.get("v") != STATE_VERSION:
            return new
        try:
            new.done, new.completed = int(state["done"]), int(state["completed"])
            new.ran_s, new.paused_s = float(state["ran_s"]), float(state["paused_s"])
            new._retried, new._retried_s, new._delay_s = map(float, state["retried"])
            new.busy = Busy.restore(state["busy"])
            new.durations = Durations(**state["durations"])
            new.spells = Spells(**state["spells"])
        except (KeyError, TypeError, ValueError):
            return cls(total)
        return new

    @classmethod
    def from_average(cls, average_ms: float, total: int) -> Estimator:
        """Begin with what the column avg_partition_duration_ms says, counted as one partition."""
        new = cls(total)
        new.finish(average_ms / 1000)
        return new


def _span(seconds: float) -> str:
    """Write a length of time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"
