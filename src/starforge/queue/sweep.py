"""The sweep: how a worker goes over what is behind its watermarks, in pieces where that is much.

A piece is a span of due times before each watermark, the nearest first. Under a long transaction all that
was done since its start is still there to be passed over: made at once, a sweep of that would keep the
worker from its claims for seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SWEEP_S = 2.0
"""What is behind a watermark is claimed within this time, where one piece is enough."""

PIECE_S = 0.02
"""A piece that took longer is followed by shorter ones."""

PIECE_SPAN_S_MIN = 0.01
PIECE_SPAN_S_MAX = 60.0
"""Longest span to try after one that took too long."""

GROWTH = 4.0
WHOLE_S = 1e9
"""A span that reaches back so far has no beginning."""

SHARE_MAX = 0.03
SHARE_MAX_HURRIED = 0.5
"""Share of its time that a worker may sweep, and that after it was told that something is behind."""


@dataclass(slots=True)
class Sweep:
    """Which piece is next, and when; times on the monotonic clock, spans of due times in seconds."""

    next_s: float = -math.inf
    """When the next piece may be made."""

    done_s: float = 0.0
    """So far back this sweep has got; 0: it has not begun."""

    span_s: float = WHOLE_S
    """How much further back the next piece goes."""

    _near_s: float = WHOLE_S  # the first piece of each sweep
    _began_s: float = -math.inf
    _slow: bool = False  # a piece of this sweep took long
    _hurried: bool = False

    def hurry(self) -> None:
        """Begin at once, and do not spare the others: something is behind."""
        self.next_s, self.done_s, self._hurried = -math.inf, 0.0, True

    def piece(self, now_s: float) -> tuple[float, float] | None:
        """Return how far before the watermarks the next piece begins and ends; None where it is not time."""
        if now_s < self.next_s:
            return None
        if self.done_s == 0.0:
            self._began_s, self._slow, self.span_s = now_s, False, self._near_s
        self.next_s = now_s + SWEEP_S
        reach_s = self.done_s + self.span_s
        return (math.inf if reach_s >= WHOLE_S else reach_s), self.done_s

    def settle(self, now_s: float, took_s: float, *, full: bool) -> None:
        """Learn from a piece that took so long; `full`: it took all the jobs that were asked for."""
        reach_s = self.done_s + self.span_s
        share = SHARE_MAX_HURRIED if self._hurried else SHARE_MAX
        self.next_s = now_s + took_s / share
        if took_s > PIECE_S and not full:
            shorter_s = min(self.span_s, PIECE_SPAN_S_MAX) * PIECE_S / took_s
            self._near_s = self.span_s = max(PIECE_SPAN_S_MIN, shorter_s)
            self._slow = True
        elif took_s < PIECE_S / GROWTH:
            self.span_s = min(WHOLE_S, self.span_s * GROWTH)
        self.done_s = reach_s
        if full:
            self.done_s, self.next_s = 0.0, now_s
        elif reach_s >= WHOLE_S:
            self.done_s, self._hurried = 0.0, False
            self.next_s = max(self.next_s, self._began_s + SWEEP_S)
            if not self._slow:
                self._near_s = min(WHOLE_S, self._near_s * GROWTH)
