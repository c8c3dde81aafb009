"""How busy the slots of a backfill are: the share of the time they offer in which partitions really run.

It is less than one where workers are too few, or where a slot waits between two partitions. Measured for
each number of slots apart, as a throttled backfill keeps its few slots busier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LEAST = 0.001
LEVELS_MOST = 8


@dataclass(slots=True)
class Busy:
    """By slots, the seconds of work done and of slots offered, the older ones counting less."""

    seconds: dict[int, tuple[float, float]] = field(default_factory=dict)

    def spend(self, slots: int, spent_s: float, work_s: float, memory_s: float) -> None:
        """Count a time in which so many slots did so many seconds of work; older times fade by memory_s."""
        keep = math.exp(-spent_s / memory_s)
        busy_s, offered_s = self.seconds.pop(slots, (0.0, 0.0))
        self.seconds[slots] = (busy_s * keep + work_s, offered_s * keep + spent_s * slots)
        if len(self.seconds) > LEVELS_MOST:
            del self.seconds[next(iter(self.seconds))]

    def share(self, slots: int, prior_s: float) -> float:
        """Return how busy so many slots are, in (0, 1].

        Fewer slots than were measured may be busier, where workers were too few for all, or as busy, where
        each waits between two partitions: until they are measured the truth is taken to lie in the middle.

        Args:
            slots: How many there are now, 1 or more.
            prior_s: Before more than so many seconds were seen, slots are taken to be busy.
        """
        busy_s, offered_s = self.seconds.get(slots, (0.0, 0.0))
        if not offered_s and self.seconds:
            other = next(reversed(self.seconds))
            busy_s, offered_s = self.seconds[other]
            if other > slots:
                busy_s = math.sqrt(busy_s * min(busy_s * other / slots, offered_s))
        if offered_s + prior_s <= 0:
            return 1.0
        return min(max((busy_s + prior_s) / (offered_s + prior_s), LEAST), 1.0)

    def state(self) -> dict[str, list[float]]:
        """Return what was counted, as JSON has it."""
        return {str(slots): list(seconds) for slots, seconds in self.seconds.items()}

    @classmethod
    def restore(cls, state: dict[str, list[float]]) -> Busy:
        """Go on from a stored state."""
        return cls({int(slots): (float(busy), float(offered)) for slots, (busy, offered) in state.items()})
