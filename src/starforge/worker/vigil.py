"""The vigil: a supervisor watches its child's signs of life, and whom the kernel kills for memory.

Whether a child that lives should be replaced is for the watch to say; this is about one that does not move.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from contextlib import suppress

from starforge.clock import monotonic_s
from starforge.worker.cgroup import memory_folder, oom_kills
from starforge.worker.inflight import InFlight

LOOK_S = 0.5
OOM_LOOKS = 4
"""A kill that the kernel counted within this many looks before the child's end was the child's."""

STACKS_S = 1.0
"""Time for a stalled child to write down where it is."""


class Vigil:
    """Looks at one child until it ends."""

    def __init__(self, pid: int, record: InFlight, progress_s: float) -> None:
        self._pid, self._record, self._progress_s = pid, record, progress_s
        self._group = memory_folder(pid)
        self._kills: deque[int] = deque([oom_kills(self._group)], maxlen=OOM_LOOKS)

    async def until_stalled(self) -> None:
        """Return when the child has given no sign of life for the progress deadline.

        Before its first sign there is no deadline: it imports the app.
        """
        silent_s, last = 0.0, 0
        while silent_s < self._progress_s:
            before_s = monotonic_s()
            await asyncio.sleep(LOOK_S)
            self._kills.append(oom_kills(self._group))
            beat = self._record.beat_ns
            if beat == 0 or beat != last:
                silent_s, last = 0.0, beat
            else:
                # A supervisor that was itself held up has not seen its child be silent.
                silent_s += min(monotonic_s() - before_s, 2 * LOOK_S)

    @property
    def killed_for_memory(self) -> bool:
        """Whether the kernel has just killed somebody for want of memory in the child's control group."""
        return oom_kills(self._group) > self._kills[0]

    async def ask_for_stacks(self) -> None:
        """Have a child that makes no progress write down where it is, whoever holds the lock."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGQUIT)
        deadline_s = monotonic_s() + STACKS_S
        while not self._record.noted()[0] and monotonic_s() < deadline_s:
            await asyncio.sleep(0.02)
