"""The memory governor: measures a worker with all its children, and says when it is to be sparing.

Above the mark the child is told to rest: it claims nothing, gives back what waits and collects its garbage.
Below the mark less a margin it goes on. The supervisor measures, so no handler can hide what it uses.
"""

from __future__ import annotations

import os
from collections import deque

import structlog

from starforge.clock import monotonic_s
from starforge.telemetry.metrics import tell_memory
from starforge.telemetry.process import Memory, Tree
from starforge.worker.limit import Limit, MemorySettings
from starforge.worker.page import Fare

log = structlog.get_logger("worker")

SAMPLE_S = 0.5
CURVE_SAMPLES = 120
MARGIN = 0.05
"""Share of the limit by which use must fall below the mark before the worker goes on."""

SOON_S = 600.0
"""Growth that would reach the limit within this time is reported (O-03)."""

GROWING_SAMPLES_MIN = 60
TOLD_AGAIN_S = 300.0


class Governor:
    """Keeps the curve of one worker's memory, and knows whether it is short."""

    def __init__(self, limit: Limit | None) -> None:
        self.limit = limit
        self.memory = Memory()
        self.pressed_s: float | None = None
        """Since when memory is short, on the monotonic clock; None while it is not."""

        self.episodes = 0
        self._tree = Tree(os.getpid())
        self._curve: deque[tuple[float, int]] = deque(maxlen=CURVE_SAMPLES)
        self._growth_told_s = -TOLD_AGAIN_S

    def sample(self, child: int | None = None) -> Memory:
        """Measure the worker's processes now, keep it on the curve, and show it on the page of metrics."""
        self.keep(monotonic_s(), self._tree.memory(*([child] if child else ())))
        tell_memory("worker", self.memory, self.limit.bytes if self.limit else None)
        return self.memory

    def keep(self, at_s: float, memory: Memory) -> None:
        """Put what was measured on the curve."""
        self.memory = memory
        self._curve.append((at_s, memory.rss_bytes))

    def curve(self) -> list[tuple[float, int]]:
        """Return the last minute as (seconds ago, bytes), oldest first."""
        now_s = monotonic_s()
        return [(round(now_s - at_s, 1), rss) for at_s, rss in self._curve]

    def judge(self, fare: Fare | None) -> bool:
        """Decide by the last sample whether memory is short, and say so where that has changed."""
        if self.limit is None:
            return False
        mark = MemorySettings.read().mark
        used = self.limit.used(self.memory.rss_bytes)
        share = used / self.limit.bytes
        if self.pressed_s is None and share >= mark:
            self.pressed_s = monotonic_s()
            self.episodes += 1
            log.warning("memory.pressure", **self._told(used), **_jobs(fare), curve=self.curve()[-40::4])
        elif self.pressed_s is not None and share < mark - MARGIN:
            pressed_s, self.pressed_s = monotonic_s() - self.pressed_s, None
            log.info("memory.calm", **self._told(used), after_s=round(pressed_s, 1))
        elif self.pressed_s is None:
            self._foresee(used)
        return self.pressed_s is not None

    def _told(self, used: int) -> dict[str, object]:
        assert self.limit is not None
        return {
            "used_bytes": used,
            "limit_bytes": self.limit.bytes,
            "share": round(used / self.limit.bytes, 3),
            "source": self.limit.source,
        }

    def _foresee(self, used: int) -> None:
        """Report steady growth that will reach the limit soon, before it does."""
        assert self.limit is not None
        now_s = monotonic_s()
        if len(self._curve) < GROWING_SAMPLES_MIN or now_s - self._growth_told_s < TOLD_AGAIN_S:
            return
        # The lowest of each third: what garbage and single large jobs add on top is no growth.
        samples = [rss for _, rss in self._curve]
        third = len(samples) // 3
        first, second, last = (min(samples[n * third : (n + 1) * third]) for n in range(3))
        if not first < second < last:
            return
        per_s = (last - first) / (2 * third * SAMPLE_S)
        left_s = (self.limit.bytes - used) / per_s
        if left_s < SOON_S:
            self._growth_told_s = now_s
            log.warning(
                "memory.growing", **self._told(used), full_in_s=round(left_s), bytes_per_s=round(per_s)
            )


def _jobs(fare: Fare | None) -> dict[str, object]:
    if fare is None:
        return {}
    now_s = monotonic_s()
    jobs = [
        {"job_id": job.job_id, "type": job.type, "age_s": round(now_s - job.seen_s, 1)}
        for job in fare.jobs[:20]
    ]
    return {"child_rss_bytes": fare.rss_bytes, "running": fare.running, "jobs": jobs}
