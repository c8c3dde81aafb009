"""What a job type declares beside its handler: retries, limits, rates, and what makes two jobs the same."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from starforge.queue.backoff import BackoffSettings, delay_s
from starforge.queue.errors import DeclarationError
from starforge.queue.job import JOB

KEY_CHARS_MAX = 200
"""A longer key is replaced by its SHA-256: it is compared, and read by nobody."""

RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|m|h|d)\s*")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

KeyOf = str | Sequence[str] | Callable[[Mapping[str, Any]], object]
"""A field of the payload, several of them, or a function of the payload."""

Errors = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed job is tried, and how long it waits between two attempts."""

    attempts: int | None = None
    """Failures after which it is given up; None means STARFORGE_MAX_ATTEMPTS."""

    base_s: float | None = None
    """Wait after the first failure, doubled by each further one; None means STARFORGE_BACKOFF_BASE_S."""

    max_s: float | None = None
    """Longest wait; None means STARFORGE_BACKOFF_MAX_S."""

    jitter: float = 0.5
    """Share of the wait that is drawn: 0 waits exactly, 1 anything from nothing to all of it."""

    on: Errors = ()
    """Only these are tried again, where any are named; all others are permanent."""

    never: Errors = ()
    """These are permanent."""

    def __post_init__(self) -> None:
        for name in ("on", "never"):
            object.__setattr__(self, name, _exceptions(name, getattr(self, name)))
        _at_least("retry attempts", self.attempts, 1)
        _at_least("retry base_s", self.base_s, 0)
        _at_least("retry max_s", self.max_s, 0)
        if not 0 <= self.jitter <= 1:
            raise DeclarationError(f"retry jitter is {self.jitter}; it must be from 0 to 1")

    def permanent(self, error: BaseException) -> bool:
        """Tell whether no further attempt is made after this error, however many are left."""
        return isinstance(error, self.never) or (self.on != () and not isinstance(error, self.on))

    def delay_s(self, attempt: int) -> float:
        """Return the wait in seconds after failed attempt number `attempt`."""
        settings = BackoffSettings.read()
        return delay_s(
            attempt,
            base_s=settings.base_s if self.base_s is None else self.base_s,
            max_s=settings.max_s if self.max_s is None else self.max_s,
            jitter=self.jitter,
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs of a type may run at once: in all, on one worker, and for one key of the payload."""

    total: int | None = None
    per_worker: int | None = None
    per_key: int | None = None
    key: KeyOf | None = None

    def __post_init__(self) -> None:
        for name in ("total", "per_worker", "per_key"):
            _at_least(f"limit {name}", getattr(self, name), 1)
        if (self.per_key is None) != (self.key is None):
            raise DeclarationError("a limit per_key needs a key, and a key needs a limit per_key")

    def key_of(self, payload: Mapping[str, Any]) -> str:
        """Return the limit key of a job with this payload; empty where the type has no limit per key."""
        return "" if self.key is None else key_text(self.key, payload)


@dataclass(frozen=True, slots=True)
class Rate:
    """How many jobs of a type may start per second, over all workers."""

    per_s: float
    burst: int = 1
    """Starts that may come at once after a quiet time."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_s) and self.per_s > 0):
            raise DeclarationError(f"a rate of {self.per_s} per second is not above 0")
        _at_least("rate burst", self.burst, 1)

    @classmethod
    def of(cls, text: str) -> Rate:
        """Read "100/m": so many starts per s, m, h or d; a tenth of them, at least one, may come at once."""
        found = RATE.fullmatch(text)
        if found is None or float(found[1]) <= 0:
            raise DeclarationError(
                f"the rate {text!r} cannot be read; write it like 5/s, 100/m, 2000/h or 9/d"
            )
        count = float(found[1])
        return cls(per_s=count / SECONDS[found[2]], burst=max(1, int(count / 10)))


@dataclass(frozen=True, slots=True)
class Unique:
    """Which jobs of a type are one and the same: enqueueing the second gives back the first."""

    key: KeyOf | None = None
    """What they have in common; None means the whole payload."""

    states: tuple[str, ...] = ("pending", "running", "paused")
    """The states in which the first one stands for the second."""

    within: float | timedelta | None = None
    """For how long at most, seconds, from the first one's enqueue."""

    def __post_init__(self) -> None:
        if not self.states or (unknown := sorted(set(self.states) - set(JOB.states))):
            known = ", ".join(JOB.states)
            raise DeclarationError(f"unique states {', '.join(unknown) or 'are none'}; a job is {known}")
        if self.within is not None:
            object.__setattr__(self, "within", seconds("unique within", self.within))

    @property
    def within_s(self) -> float | None:
        """The time in seconds for which a key holds at most; None without a bound."""
        return None if self.within is None else seconds("unique within", self.within)

    def key_of(self, payload: Mapping[str, Any]) -> str:
        """Return the key of a job with this payload."""
        return key_text(self.key, payload)


def key_text(key: KeyOf | None, payload: Mapping[str, Any]) -> str:
    """Return what `key` says of a payload, as text of bounded length; a field that is not there says null."""
    said: object = payload
    if callable(key):
        said = key(payload)
    elif key is not None:
        names = (key,) if isinstance(key, str) else tuple(key)
        said = payload.get(names[0]) if len(names) == 1 else [payload.get(name) for name in names]
    text = said if isinstance(said, str) else msgspec.json.encode(said, order="deterministic").decode()
    if not text:
        raise DeclarationError("a key is empty")
    return text if len(text) <= KEY_CHARS_MAX else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def seconds(what: str, value: float | timedelta) -> float:
    """Return a time in seconds; raise DeclarationError where it is not above 0."""
    found: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < math.inf:
        raise DeclarationError(f"{what} is {value!r}; give seconds above 0, or a timedelta")
    return float(found)


def as_retry(value: int | Retry | None) -> Retry:
    """Read `retry=`: a number of attempts, or a Retry."""
    return value if isinstance(value, Retry) else Retry(attempts=value)


def as_limit(value: int | Limit | None) -> Limit | None:
    """Read `limit=`: how many run at once over all workers, or a Limit."""
    return value if value is None or isinstance(value, Limit) else Limit(total=value)


def as_rate(value: str | Rate | None) -> Rate | None:
    """Read `rate=`: text like "100/m", or a Rate."""
    return Rate.of(value) if isinstance(value, str) else value


def as_unique(value: bool | KeyOf | Unique | None) -> Unique | None:
    """Read `unique=`: True for the whole payload, a field, fields, a function of the payload, or a Unique."""
    if value is None or value is False:
        return None
    if isinstance(value, Unique):
        return value
    return Unique() if value is True else Unique(key=value)


def _at_least(what: str, value: object, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise DeclarationError(f"{what} is {value!r}; it must be {least} or more")


def _exceptions(name: str, value: object) -> tuple[type[BaseException], ...]:
    found = value if isinstance(value, tuple) else (value,)
    for each in found:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise DeclarationError(f"retry {name} names {each!r}, which is no exception class")
    return found
