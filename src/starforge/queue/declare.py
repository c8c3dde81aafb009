"""What a job type declares beside its handler: retries, limits, rates, and what makes two jobs the same."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypedDict

import msgspec

from starforge.queue.backoff import BackoffSettings, delay_s
from starforge.queue.errors import DeclarationError
from starforge.queue.job import DUPLICATE_STATES, JOB, Key

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

    states: tuple[str, ...] = DUPLICATE_STATES
    """While the first one is in one of these, the second is the first."""

    within: float | timedelta | None = None
    """And for so long from the first one's enqueue, seconds, whatever became of it."""

    on_conflict: Literal["return", "replace", "reschedule"] = "return"
    """What the second does to the first while that is pending: see Key."""

    def __post_init__(self) -> None:
        if not self.states or (unknown := sorted(set(self.states) - set(JOB.states))):
            known = ", ".join(JOB.states)
            raise DeclarationError(f"unique states {', '.join(unknown) or 'are none'}; a job is {known}")
        if self.within is not None:
            object.__setattr__(self, "within", seconds("unique within", self.within))

    def of(self, payload: Mapping[str, Any]) -> Key:
        """Return the key of a job with this payload."""
        within_s = None if self.within is None else seconds("unique within", self.within)
        return Key(key_text(self.key, payload), self.states, within_s, self.on_conflict)


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


class Declared(TypedDict, total=False):
    """The arguments of `@app.job(…)`."""

    queue: str
    """Queue of its jobs."""

    priority: int
    """Higher runs first."""

    retry: int | Retry
    """Attempts, or a Retry."""

    timeout: float | timedelta | None
    """Longest attempt, seconds or a timedelta."""

    isolated: bool
    """Each attempt runs in a process of its own, which is killed where it takes longer than the timeout."""

    memory_bytes_max: int
    """What that process may take of memory, interpreter and imports included."""

    high_memory: bool
    """Only workers with --high-memory run it."""

    unique: bool | KeyOf | Unique
    """Jobs of the same payload (True), field, fields or function of the payload are one job."""

    limit: int | Limit
    """Jobs at once over all workers, or a Limit."""

    rate: str | Rate
    """Starts, like "100/m", or a Rate."""

    owner: str
    """Who answers for it."""

    critical: bool
    """It goes on while what is not critical is paused."""


def read_declared(name: str, declared: Declared) -> dict[str, Any]:
    """Return the declaration as the fields of a JobType; raise DeclarationError for what cannot be."""
    fields: dict[str, Any] = dict(declared)
    if unknown := sorted(set(fields) - set(Declared.__annotations__)):
        known = ", ".join(Declared.__annotations__)
        raise DeclarationError(f"job {name}: there is no {', '.join(unknown)}; it may declare {known}")
    for field, read in _READ.items():
        if field in fields:
            fields[field] = read(fields[field])
    if "timeout" in fields:
        fields["timeout_s"] = fields.pop("timeout")
    return {field: value for field, value in fields.items() if value is not None}


def _as_retry(value: int | Retry) -> Retry:
    return value if isinstance(value, Retry) else Retry(attempts=value)


def _as_limit(value: int | Limit) -> Limit:
    return value if isinstance(value, Limit) else Limit(total=value)


def _as_rate(value: str | Rate) -> Rate:
    return Rate.of(value) if isinstance(value, str) else value


def _as_unique(value: bool | KeyOf | Unique) -> Unique | None:
    if value is False:
        return None
    if isinstance(value, Unique):
        return value
    return Unique() if value is True else Unique(key=value)


def _as_seconds(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds("timeout", value)


_READ: dict[str, Callable[[Any], Any]] = {
    "retry": _as_retry,
    "timeout": _as_seconds,
    "limit": _as_limit,
    "rate": _as_rate,
    "unique": _as_unique,
}


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
