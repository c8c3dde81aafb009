"""Spells of throttling: how long a backfill ran open and throttled so far, and what that says of its future.

A job is open or throttled, in turns. From what was seen of both the share of its concurrency that it will
have is foretold: now it is what it is, later what it was on average, and in between it goes from the one to
the other as fast as spells have ended so far. As long as none has ended, what is now is taken to last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

OPEN = 0.999
"""From this share of the concurrency on nothing is throttled."""

UNENDED = 0.25
"""How unsure a time is, as a share, while no spell of throttling has ended yet."""

SHARE_LEAST = 0.001
BRIEF_S = 1e-9
SOLVE_ROUNDS = 24


@dataclass(slots=True)
class Spells:
    """Time spent open and throttled, in seconds of running time, and how many spells of each have ended."""

    open_s: float = 0.0
    throttled_s: float = 0.0
    throttled_share_s: float = 0.0
    """The share of the concurrency while throttled, times the time."""

    open_ended: int = 0
    throttled_ended: int = 0
    share: float = 1.0
    """What it is now."""

    def spend(self, seconds: float, share: float) -> None:
        """Count running time at the share that was in force, then take the share as what is now."""
        if self.share >= OPEN:
            self.open_s += seconds
        else:
            self.throttled_s += seconds
            self.throttled_share_s += seconds * self.share
        if (share >= OPEN) != (self.share >= OPEN):
            if share >= OPEN:
                self.throttled_ended += 1
            else:
                self.open_ended += 1
        self.share = share

    @property
    def throttled(self) -> float:
        """The share of the running time that was throttled."""
        spent = self.open_s + self.throttled_s
        return self.throttled_s / spent if spent else 0.0

    def time_for(self, work_s: float) -> tuple[float, float]:
        """Return how long a work takes that would take so long unthrottled, and how unsure that is.

        Returns: Seconds (infinite where nothing may start and nothing says that this will end), and the
        standard deviation as a share of them.
        """
        now = self.share
        if not self.open_ended and not self.throttled_ended:
            return (work_s / now if now > 0 else math.inf), 0.0
        if not self.throttled_ended and now < OPEN:
            return (work_s / now if now > 0 else math.inf), UNENDED
        starts = self.open_ended / max(self.open_s, BRIEF_S)
        ends = self.throttled_ended / max(self.throttled_s, BRIEF_S)
        turn_s = 1 / (starts + ends)
        often = starts * turn_s  # how much of the time it will be throttled
        low = self.throttled_share_s / self.throttled_s if self.throttled_s else now
        later = max(often * low + (1 - often), SHARE_LEAST)
        seconds = _solved(work_s, now, later, turn_s)
        turns = turn_s / max(seconds, BRIEF_S)
        wander = turns * max(1 + turns * math.expm1(-1 / turns), 0.0)
        learnt = (
            often * (1 - often) * max(1 - turns, 0.0) / (min(self.open_ended, self.throttled_ended) + 0.5)
        )
        return seconds, (1 - low) * math.sqrt(2 * often * (1 - often) * (wander + learnt)) / later

    def state(self) -> dict[str, float]:
        """Return the sums, to be stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _solved(work_s: float, now: float, later: float, turn_s: float) -> float:
    """Return when a work is done at a share that goes from `now` to `later` within about `turn_s`."""
    least_s, most_s = 0.0, work_s / later
    if now < later:
        most_s = min(most_s + turn_s, work_s / now if now > 0 else math.inf)
    for _ in range(SOLVE_ROUNDS):
        middle_s = (least_s + most_s) / 2
        done_s = later * middle_s - (now - later) * turn_s * math.expm1(-middle_s / turn_s)
        least_s, most_s = (least_s, middle_s) if done_s >= work_s else (middle_s, most_s)
    return most_s
