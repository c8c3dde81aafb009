"""The look of a backfill: what is shown of it beside its counters, kept up as partitions end.

It is stored in the row, in the transaction that counts: nobody has to read half a million partitions to
show where a backfill is and what fails in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starforge.errors import shortened

PARTS_MAX = 60
FAILURES_MAX = 8
KEYS_MAX = 5
MESSAGE_CHARS_MAX = 300
RATE_S = 30.0
"""The rate is that of the last so many seconds."""

PLACES = {"completed": 0, "failed": 1, "cancelled": 2}


@dataclass(slots=True)
class Failure:
    """Attempts that failed in the same way."""

    fingerprint: str
    message: str
    count: int
    keys: list[str]
    last_at: str


@dataclass(slots=True)
class Look:
    """What is shown of a backfill with so many partitions."""

    total: int
    strip: list[list[int]]
    """For each part of the partitions in order: how many completed, failed, are cancelled, are there."""

    failures: dict[str, Failure] = field(default_factory=dict)
    ended: deque[tuple[float, int]] = field(default_factory=deque)
    """When, and how many."""

    began_s: float = 0.0

    @classmethod
    def begin(cls, total: int) -> Look:
        """Begin with nothing that is over."""
        parts = min(PARTS_MAX, total)
        return cls(
            total,
            [
                [0, 0, 0, _begins(part + 1, parts, total) - _begins(part, parts, total)]
                for part in range(parts)
            ],
        )

    @staticmethod
    def noted(stored: Mapping[str, Any] | None) -> dict[str, Failure]:
        """Return the failures that a stored one has; none where there is none, or it is of another make."""
        try:
            return {one["fingerprint"]: Failure(**one) for one in (stored or {})["failures"]}
        except (KeyError, TypeError):
            return {}

    def part(self, place: int) -> int:
        """Return the part that a place lies in."""
        return place * len(self.strip) // self.total

    def begins(self, part: int) -> int:
        """Return the first place of a part."""
        return _begins(part, len(self.strip), self.total)

    def counts(self) -> list[int]:
        """Return how many partitions completed, failed and are cancelled."""
        return [sum(part[at] for part in self.strip) for at in range(len(PLACES))]

    def end(self, place: int, outcome: str, by: int = 1) -> None:
        """Count a partition that is over, by its place in the order; by -1: it is not counted after all."""
        self.strip[self.part(place)][PLACES[outcome]] += by

    def fail(self, key: str, fingerprint: str, message: str, at: datetime) -> None:
        """Note an attempt that failed, for good or not."""
        found = self.failures.pop(fingerprint, None) or Failure(fingerprint, "", 0, [], "")
        found.message, found.count = shortened(message, MESSAGE_CHARS_MAX), found.count + 1
        found.keys = [*[each for each in found.keys if each != key], key][-KEYS_MAX:]
        found.last_at = at.isoformat()
        self.failures[fingerprint] = found
        if len(self.failures) > FAILURES_MAX:
            del self.failures[next(iter(self.failures))]

    def count(self, now_s: float, ended: int) -> None:
        """Note that so many partitions ended about now."""
        if not self.began_s:
            self.began_s = now_s
        self.ended.append((now_s, ended))
        while self.ended and now_s - self.ended[0][0] > RATE_S:
            self.ended.popleft()

    def rate_per_s(self, now_s: float) -> float:
        """Return how many partitions ended in a second lately."""
        recent = [count for at_s, count in self.ended if now_s - at_s <= RATE_S]
        return sum(recent) / min(max(now_s - self.began_s, 1.0), RATE_S) if recent else 0.0

    def document(
        self, now_s: float, in_flight: int, throttle: str = "", slots: int | None = None
    ) -> dict[str, Any]:
        """Return it as the row has it.

        Args:
            now_s: Now.
            in_flight: How many are with the queue, or run.
            throttle: What slows it down, in a word.
            slots: How many may run at once now.
        """
        return {
            "throttle": throttle or None,
            "slots": slots,
            "strip": self.strip,
            "rate_per_s": round(self.rate_per_s(now_s), 3),
            "in_flight": in_flight,
            "failures": [
                {
                    "fingerprint": one.fingerprint,
                    "message": one.message,
                    "count": one.count,
                    "keys": one.keys,
                    "last_at": one.last_at,
                }
                for one in self.failures.values()
            ],
        }


def _begins(part: int, parts: int, total: int) -> int:
    """Return the first place of a part: the first with place · parts // total == part."""
    return -(-part * total // parts)
