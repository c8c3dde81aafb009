"""Alone: the slot of the jobs that killed a process or may have: one at a time, each in a process of its own.

It is beside the slots of all others: whoever is under suspicion holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from starforge.clock import monotonic_s
from starforge.loop import forget_cancellation
from starforge.queue.job import LeasedJob
from starforge.worker.outcome import Outcome

WAITING_MAX = 8
WAITING_S_MAX = 10.0
"""They wait for one another, so many and so long; the rest is given back, for other workers to take."""


class Alone:
    """The jobs of one child that are to run alone."""

    def __init__(
        self,
        apart: Callable[[LeasedJob], Awaitable[Outcome]],
        ended: Callable[[Outcome], None],
        stop: asyncio.Event,
    ) -> None:
        self._apart, self._ended, self._stop = apart, ended, stop
        self.waiting: deque[tuple[float, LeasedJob]] = deque()
        """With when each began to wait."""

        self.running = 0
        self._ready = asyncio.Event()

    def take(self, job: LeasedJob) -> None:
        """Let a job wait for its turn, or give it back where too many do."""
        if len(self.waiting) >= WAITING_MAX:
            self._ended(Outcome(job, "returned", 0.0))
            return
        self.waiting.append((monotonic_s(), job))
        self._ready.set()

    @property
    def late(self) -> bool:
        """Whether one has waited for so long that another worker should have it."""
        return bool(self.waiting) and monotonic_s() - self.waiting[0][0] > WAITING_S_MAX

    def wake(self) -> None:
        """Let `run` see that it is told to stop."""
        self._ready.set()

    async def run(self) -> None:
        """Run one job after the other until `stop`."""
        me = asyncio.current_task()
        assert me is not None
        while not self._stop.is_set():
            if not self.waiting:
                self._ready.clear()
                await self._ready.wait()
                continue
            self.running = 1
            try:
                outcome = await self._apart(self.waiting.popleft()[1])
            finally:
                self.running = 0
            self._ended(outcome)
            if outcome.ending == "returned":
                return
            if me.cancelling():
                await forget_cancellation(me)
