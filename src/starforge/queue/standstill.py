"""Standstill: for how long a process's loop went no further, because something on it did not wait, and where.

A coroutine that computes, or calls what blocks, holds up every job beside it: their time runs out, and
nothing of their own says why. So it is noted here, and an attempt that was late for it says so.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections import deque
from pathlib import Path
from types import FrameType

import structlog

from starforge.clock import monotonic_s

log = structlog.get_logger("queue")

TURN_S = 0.5
"""How often the loop is to say that it goes round."""

LEAST_S = 0.5
"""What is late by less is a busy loop, or a busy machine."""

SPELLS_MAX = 100
FRAMES_MAX = 100
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class Standstill:
    """What is known of one loop, in the thread that makes this; nothing before its first `look`."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._looked_s: float | None = None
        self._spells: deque[tuple[float, float, str]] = deque(maxlen=SPELLS_MAX)
        self._place = ""

    def look(self) -> None:
        """Note that the loop goes round; the child calls it every TURN_S."""
        now_s = monotonic_s()
        late_s = 0.0 if self._looked_s is None else now_s - self._looked_s - TURN_S
        if late_s > LEAST_S:
            self._spells.append((now_s, late_s, self._place))
            log.warning("loop.stood_still", seconds=round(late_s, 2), place=self._place or None)
        self._looked_s, self._place = now_s, ""

    def catch(self) -> None:
        """Note where the loop is, if it goes no further now; another thread calls it."""
        looked_s = self._looked_s
        if looked_s is None or monotonic_s() - looked_s < TURN_S + LEAST_S:
            return
        frame = sys._current_frames().get(self._thread)
        if frame is not None and looked_s == self._looked_s:
            self._place = place_of(frame)

    def since(self, started_s: float) -> tuple[float, str]:
        """Return for how long it stood still since then, in seconds, and where it did so longest."""
        if self._looked_s is not None:
            self.look()
        found = [(min(s, ended_s - started_s), at) for ended_s, s, at in self._spells if ended_s > started_s]
        return sum(seconds for seconds, _ in found), max(found, default=(0.0, ""))[1]


def place_of(frame: FrameType) -> str:
    """Return where a thread is, as somebody finds it in the code: the innermost that is no library's."""
    at: FrameType | None = frame
    for _ in range(FRAMES_MAX):
        if at is None:
            break
        if not at.f_code.co_filename.startswith((*LIBRARIES, "<")):
            frame = at
            break
        at = at.f_back
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
