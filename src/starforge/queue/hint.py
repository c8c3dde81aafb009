"""Hints: a word to the workers where new work is. Polling is the truth; a lost hint costs a poll."""

from __future__ import annotations

import math
from collections import deque

import msgspec

from starforge.clock import monotonic_s

CHANNEL = "starforge_jobs"

EVERYWHERE = "*"
"""The hint that names no lane: look at all of them."""

SOMEWHERE = "+"
"""The hint that many lanes have new work, and nothing else has changed."""

HINT_BYTES_MAX = 7900
"""NOTIFY refuses payloads of 8000 bytes and more."""

LANES_NAMED_MAX = 8
"""A bulk into more lanes than this says `EVERYWHERE` once."""

DEBOUNCE_S = 0.005
"""NOTIFY takes a database-wide lock at commit: at most one per lane, process and this long. A worker
that was woken looks again after 2, 4, 8 ms …, so that what comes soon after a hint is found about as fast."""

LANES_AT_ONCE = 4
"""After hints of this many lanes within DEBOUNCE_S comes one for all: with a hint each, commits queue up."""

LANES_REMEMBERED_MAX = 10_000
"""Of more lanes than this the debounce is forgotten: it costs a hint each."""


class Hint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The lane that has new work, as one hint names it."""

    queue: str
    type: str
    priority: int
    tenant: str
    limit_key: str

    def text(self) -> str:
        """Return the notification's payload: a JSON array, or EVERYWHERE where that would be too long."""
        encoded = msgspec.json.encode(self)
        return encoded.decode() if len(encoded) <= HINT_BYTES_MAX else EVERYWHERE


def parse_hint(text: str) -> Hint | None:
    """Return the lane that a notification names; None means look everywhere.

    Whatever cannot be read means everywhere, so that other versions and people may notify as they like.
    """
    try:
        return msgspec.json.decode(text, type=Hint)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def hints_for(lanes: set[Hint]) -> list[str]:
    """Return the payloads for new work in these lanes: one each, or one for all where they are many."""
    if len(lanes) > LANES_NAMED_MAX:
        return [EVERYWHERE]
    return sorted({lane.text() for lane in lanes})


class Debounce:
    """Lets one hint per lane through, then none for DEBOUNCE_S; for many lanes at once, one for them all."""

    def __init__(self, window_s: float = DEBOUNCE_S) -> None:
        self._window_s = window_s
        self._sent_s: dict[Hint, float] = {}
        self._lately_s: deque[float] = deque(maxlen=LANES_AT_ONCE)
        self._all_s = -math.inf

    def word(self, lane: Hint) -> str | None:
        """Return the payload that may leave now for new work in this lane, and count it as sent; or None."""
        since_s = (now_s := monotonic_s()) - self._window_s
        if self._all_s > since_s or self._sent_s.get(lane, -math.inf) > since_s:
            return None
        if len(self._lately_s) == LANES_AT_ONCE and self._lately_s[0] > since_s:
            self._all_s = now_s
            return SOMEWHERE
        if len(self._sent_s) >= LANES_REMEMBERED_MAX:
            self._sent_s.clear()
        self._sent_s[lane] = now_s
        self._lately_s.append(now_s)
        return lane.text()

    def unsent(self, lane: Hint) -> None:
        """Take back what `word` counted: the hint's transaction failed."""
        self._sent_s.pop(lane, None)
        self._all_s = -math.inf
