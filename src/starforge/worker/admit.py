"""Admission: which of the claimed jobs may start beside what runs, by what their types were seen to need.

It is there only where the worker has a memory limit; without one a slot takes the next job.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from starforge.clock import monotonic_s
from starforge.queue.job import LeasedJob

LOOK_AHEAD_MAX = 100
"""So many of the waiting jobs are looked at for one that fits."""

PASSED_S_MAX = 1.0
"""A job that others have passed for this long keeps room free: no job with a need starts before it."""

KEPT_S_MAX = 10.0
"""Room is kept no longer than this for a type that none of the waiting jobs has any more."""


class Admission:
    """Counts what runs by type, and lets a job start where its need fits beside that."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        """What the jobs may use together: the mark less what the worker uses without them."""

        self.running: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        """Most jobs of each type at once since this was last taken away: so short ones are seen too."""

        self._needs: Mapping[str, int] = {}
        self._kept_for: tuple[str, float] | None = None

    def learned(self, needs: Mapping[str, int]) -> None:
        """Take over what a job of each type needs, in bytes; types that lack need nothing worth counting."""
        self._needs = needs

    def pick(self, waiting: deque[tuple[float, LeasedJob]]) -> LeasedJob | None:
        """Take the first waiting job that fits away and return it; None where none does."""
        now_s = monotonic_s()
        self._keep_room(waiting, now_s)
        for place in range(min(len(waiting), LOOK_AHEAD_MAX)):
            job = waiting[place][1]
            if self._fits(job.type):
                del waiting[place]
                self._started(job.type)
                return job
        return None

    def ended(self, job_type: str) -> None:
        """A job of this type runs no more."""
        self.running[job_type] -= 1
        if not self.running[job_type]:
            del self.running[job_type]

    def _started(self, job_type: str) -> None:
        self.running[job_type] += 1
        self.seen[job_type] = max(self.seen[job_type], self.running[job_type])
        if self._kept_for is not None and self._kept_for[0] == job_type:
            self._kept_for = None

    def _fits(self, job_type: str) -> bool:
        need = self._needs.get(job_type, 0)
        if not need or not self.running:
            return True  # the largest runs too, alone
        if self._kept_for is not None and self._kept_for[0] != job_type:
            return False
        taken = sum(self._needs.get(of, 0) * jobs for of, jobs in self.running.items())
        return taken + need <= self.room_bytes

    def _keep_room(self, waiting: deque[tuple[float, LeasedJob]], now_s: float) -> None:
        if self._kept_for is not None and now_s - self._kept_for[1] > KEPT_S_MAX:
            self._kept_for = None
        if waiting and self._kept_for is None and now_s - waiting[0][0] > PASSED_S_MAX:
            first = waiting[0][1].type
            if self._needs.get(first, 0):
                self._kept_for = (first, now_s)
