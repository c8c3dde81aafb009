"""Time, randomness and failpoints: the three things that tests must be able to steer.

Leases and schedules use the database's clock (`sf_now()`), never this one. What is here measures
durations inside a process and draws jitter.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections import Counter
from functools import cache
from uuid import UUID

from starforge.errors import InvalidSettingError, StarForgeError

FAILPOINTS_ENV = "STARFORGE_FAILPOINTS"
SEED_ENV = "STARFORGE_SEED"
ACTIONS = ("kill", "exit", "raise", "pause")


class FailpointError(StarForgeError):
    """A failpoint was told to raise here."""

    code = "SF010"
    remedy = f"This is a test's doing: unset {FAILPOINTS_ENV}."


def monotonic_s() -> float:
    """Seconds on a clock that never steps; only differences mean something."""
    return time.monotonic()


def _seeded() -> random.Random:
    seed = os.environ.get(SEED_ENV, "")
    return random.Random(int(seed) if seed.isdigit() else None)  # noqa: S311 - jitter, not secrets


randomness = _seeded()
"""The source of jitter; `STARFORGE_SEED` makes it repeat."""


def new_id() -> UUID:
    """Make a version 7 UUID: 48 bits of wall-clock milliseconds, then 74 random bits.

    Ids that rise with time keep the right edge of the index warm; nothing depends on their order.
    Source: RFC 9562, section 5.7.
    """
    value = (time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


class Failpoints:
    """Named places in the code where a test may make the process fail.

    The environment says which: `after_claim:kill@3,before_commit:raise` kills the process with SIGKILL
    the third time it passes `after_claim` and raises each time it passes `before_commit`. Actions:
    kill (SIGKILL), exit (status 1), raise (FailpointError), pause (SIGSTOP).
    """

    def __init__(self, text: str) -> None:
        self._wanted: dict[str, tuple[str, int]] = {}
        self._passed: Counter[str] = Counter()
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, rest = entry.partition(":")
            action, _, count = rest.partition("@")
            if action not in ACTIONS or not (count or "1").isdigit():
                raise InvalidSettingError(
                    FAILPOINTS_ENV, entry, f"write name:action or name:action@n, action one of {ACTIONS}"
                )
            self._wanted[name] = (action, int(count or 0))

    @property
    def armed(self) -> bool:
        """Whether any is named: the hottest paths ask once and pass none where not."""
        return bool(self._wanted)

    def hit(self, name: str) -> None:
        """Pass the failpoint `name`: nothing happens unless the environment names it."""
        if not self._wanted or name not in self._wanted:
            return
        action, at = self._wanted[name]
        self._passed[name] += 1
        if at and self._passed[name] != at:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "pause":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "exit":
            os._exit(1)
        else:
            raise FailpointError(f"failpoint {name} was told to raise")


@cache
def failpoints() -> Failpoints:
    """Return the failpoints of this process's environment; raise InvalidSettingError for a bad text."""
    return Failpoints(os.environ.get(FAILPOINTS_ENV, ""))


def failpoint(name: str) -> None:
    """Pass a failpoint: nothing happens unless the environment names it."""
    failpoints().hit(name)
