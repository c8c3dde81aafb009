"""The sweep: how a worker goes over what is behind its watermarks, in pieces where that is much.

A piece is a span of due times, the one nearest to the watermarks first. Under a long transaction all that
was done since its start is still there to be passed over: made at once, a sweep of that would keep the
worker from its claims for seconds. A sweep goes back from where the watermarks were when it began, so that
it gets through however fast they rise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

SWEEP_S = 2.0
"""A sweep of one piece is made this often, and the nearest piece again while a longer one goes on."""

PIECE_S = 0.02
"""A piece that took longer, beside what any statement takes, is followed by shorter ones."""

FIXED_TIMES = 3.0
"""A piece may always take so many times what a statement takes that finds nothing."""

FORGET = 0.98
"""Of what the shortest pieces took so much is remembered from each piece to the next."""

SPAN_S_MIN = 0.01
SPAN_S_MAX = 60.0
"""Longest span to try after one that took too long."""

GROWTH = 4.0
"""How much longer a span is after one that took no more than half of what it may."""

STEP_MIN = 1 / 32
"""Share of what a sweep has done that its next piece covers at least, so that it gets through in any case."""

WHOLE_S = 1e9
"""A span that reaches back so far has no beginning."""

SHARE_MAX = 0.03
SHARE_MAX_HURRIED = 0.2
"""Share of its time that a worker may sweep, and that after it was told that something is behind."""

Kind = Literal["first", "near", "next"]


@dataclass(slots=True)
class Sweep:
    """Which piece is next, and when; times on the monotonic clock, spans of due times in seconds."""

    next_s: float = -math.inf
    """When the next piece may be made."""

    done_s: float = 0.0
    """So far back this sweep has got; 0: none goes on."""

    _span_s: float = WHOLE_S  # of the next piece
    _near_s: float = WHOLE_S  # of the pieces nearest to the watermarks
    _near_at_s: float = -math.inf  # when the last of those was begun
    _may_s: float = -math.inf  # when a piece may be made although it is not time
    _told: bool = False  # since the last piece was begun
    _again: bool = False  # told since this sweep was begun
    _hurried: bool = False  # until a sweep is through that began after the word
    _was_near: bool = False  # the last piece
    _slow: bool = False  # a piece of this sweep took too long
    _fixed_s: float = 0.0  # what a piece takes whatever its span, as the shortest ones showed

    def hurry(self) -> None:
        """Look behind the watermarks now, and go on faster until all that is there was looked at."""
        self._hurried = self._told = self._again = True
        self.next_s = min(self.next_s, self._may_s)

    @property
    def wake_s(self) -> float:
        """When an idle worker has to make the next piece; infinite where its polls are enough."""
        return self.next_s if self.done_s or self._hurried else math.inf

    def piece(self, now_s: float) -> tuple[Kind, float, float] | None:
        """Return the next piece, and how far back it begins and ends; None where it is not time.

        `first`: it begins a sweep, and all pieces up to the next `first` are reckoned from the watermarks
        of now. `near`: it is reckoned from those of its own time, and is no part of the sweep.
        """
        if now_s < self.next_s:
            return None
        # Where it is always time for the nearest, because pieces take so long, the sweep has its turn too.
        near = self.done_s > 0 and not self._was_near and (self._told or now_s >= self._near_at_s + SWEEP_S)
        self._was_near = near
        if near or self.done_s == 0:
            self._told = False
        if near:
            self._near_at_s = now_s
            return "near", self._near_s, 0.0
        if self.done_s == 0:
            self._near_at_s, self._slow, self._again, self._span_s = now_s, False, False, self._near_s
        reach_s = self.done_s + self._span_s
        kind: Kind = "next" if self.done_s else "first"
        return kind, (math.inf if reach_s >= WHOLE_S else reach_s), self.done_s

    def settle(self, now_s: float, kind: Kind, took_s: float, fixed_s: float, *, full: bool) -> None:
        """Learn from a piece.

        Args:
            now_s: When it was through.
            kind: Which it was.
            took_s: How long it took.
            fixed_s: What a statement takes that finds nothing: the way to the server and back, say.
            full: It took all the jobs that were asked for; they may not be all that are there.
        """
        span_s = self._near_s if kind == "near" else self._span_s
        # What the shortest piece takes is not for its span.
        self._fixed_s = took_s if span_s <= 2 * SPAN_S_MIN else self._fixed_s * FORGET
        most_s = PIECE_S + FIXED_TIMES * max(fixed_s, self._fixed_s)
        if took_s > most_s and not full:
            after_s = max(SPAN_S_MIN, min(span_s, SPAN_S_MAX) * PIECE_S / took_s)
        elif took_s <= most_s / 2:
            after_s = min(WHOLE_S, span_s * GROWTH)
        else:
            after_s = span_s
        pause_s = took_s / (SHARE_MAX_HURRIED if self._hurried else SHARE_MAX)
        self._slow = self._slow or after_s < span_s
        if kind == "near":
            self._near_s = min(after_s, self._span_s)
        elif not full:
            self.done_s += span_s
            if after_s < span_s:
                # What is nearest is hardly less dense.
                self._near_s = min(self._near_s, after_s)
            self._span_s = max(after_s, self.done_s * STEP_MIN)
            if self.done_s >= WHOLE_S:
                self._end()
                pause_s = max(pause_s, self._near_at_s + SWEEP_S - now_s)
        self._may_s = now_s + took_s / SHARE_MAX_HURRIED
        self.next_s = now_s if full else self._may_s if self._told else now_s + pause_s

    def skip(self, now_s: float) -> None:
        """Leave it at that: there is nothing to look at."""
        self._end()
        self.next_s = now_s + SWEEP_S

    def fail(self, now_s: float) -> None:
        """Learn from a piece that was not answered: the same again later, and a good deal shorter."""
        self._span_s = self._near_s = max(SPAN_S_MIN, min(self._near_s, SPAN_S_MAX) / GROWTH**2)
        self._slow = True
        self.next_s = now_s + SWEEP_S

    def _end(self) -> None:
        if not self._slow:
            self._near_s = min(WHOLE_S, self._near_s * GROWTH)
        self.done_s, self._hurried = 0.0, self._again
