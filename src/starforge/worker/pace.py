"""The pace of a worker's slots: how many jobs they take per second, of late."""

from __future__ import annotations

from starforge.clock import monotonic_s

MEASURE_S = 0.02


class Pace:
    """A moving average that halves in MEASURE_S."""

    __slots__ = ("_rate", "_seen", "_seen_s", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self._seen, self._seen_s, self._rate = 0, monotonic_s(), 0.0

    def per_s(self) -> float:
        """Measure, where the last time was long enough ago, and return the rate."""
        seconds = monotonic_s() - self._seen_s
        if seconds >= MEASURE_S:
            newer = 1 - 0.5 ** (seconds / MEASURE_S)
            self._rate += newer * ((self.taken - self._seen) / seconds - self._rate)
            self._seen, self._seen_s = self.taken, monotonic_s()
        return self._rate
