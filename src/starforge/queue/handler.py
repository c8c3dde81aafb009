"""The handler contract: what a room or a user supplies so that a worker can run its jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starforge.db.pool import Connection
from starforge.queue.call import Middleware, Run, around
from starforge.queue.context import Context
from starforge.queue.declare import Limit, Rate, Retry, Unique
from starforge.queue.errors import DuplicateTypeError
from starforge.queue.job import LeasedJob
from starforge.queue.outcome import Discard, PermanentError, Quarantined, RetryLater, Snooze
from starforge.queue.signature import Signature

__all__ = [
    "RETRY",
    "Context",
    "Discard",
    "Failed",
    "JobType",
    "JobTypes",
    "Limit",
    "Middleware",
    "PermanentError",
    "Quarantined",
    "Rate",
    "Retry",
    "RetryLater",
    "Run",
    "Snooze",
    "Unique",
]

HIGH_MEMORY_SUFFIX = "_highmem"

Failed = Callable[[Connection, LeasedJob, BaseException, bool], Awaitable[None]]
Lost = Callable[[Connection, LeasedJob, Mapping[str, Any]], Awaitable[None]]


RETRY = Retry()
"""As the settings say."""


@dataclass(frozen=True, slots=True)
class JobType:
    """A job type: its name, its handler and how its jobs are run.

    `run` gets the context and the payload and makes the coroutine of an attempt. `failed` is called in the
    transaction that records a failed attempt, with True where it was the last.
    """

    name: str
    run: Run
    queue: str = "default"
    priority: int = 0
    retry: Retry = RETRY
    timeout_s: float | None = None
    timeout_set: bool = False
    """An operator set the timeout at run time: it wins over a job's own."""

    failed: Failed | None = None
    limit: Limit | None = None
    rate: Rate | None = None
    unique: Unique | None = None
    owner: str | None = None
    """Who answers for it: shown on jobs, alerts and dead letters."""

    critical: bool = False
    """It goes on when everything that is not critical is paused."""

    isolated: bool = False
    """Each attempt runs in a process of its own, which is killed where it takes longer than the timeout."""

    memory_bytes_max: int | None = None
    """What that process may take of memory, interpreter and imports included."""

    lost: Lost | None = None
    """Called once for each time that a process died while a job of the type ran in it: by a process that
    lives, in the transaction that notes that it was told. Its last argument is the evidence: cause (oom,
    signal, exit, stalled), verdict (guilty, or suspect where others ran beside it), kills, quarantined."""

    high_memory: bool = False
    """Known only to workers that were started with --high-memory."""

    signature: Signature | None = None
    """What its payload must be; None where its handler reads the payload itself."""

    @property
    def max_attempts(self) -> int | None:
        """Failures after which a job is given up; None means STARFORGE_MAX_ATTEMPTS."""
        return self.retry.attempts

    @property
    def needs_high_memory(self) -> bool:
        """Whether only workers that were declared so know it: by its declaration, or by its name (O-45)."""
        return self.high_memory or self.name.endswith(HIGH_MEMORY_SUFFIX)


class JobTypes:
    """The job types that a process knows; two of one name are refused."""

    def __init__(self, types: Iterable[JobType] = ()) -> None:
        self._declared: dict[str, JobType] = {}
        self._types: dict[str, JobType] = {}
        self._laid_over: Mapping[str, JobType] = {}
        self._middlewares: list[Middleware] = []
        for job_type in types:
            self.add(job_type)

    def add(self, job_type: JobType) -> None:
        """Register a type; raise DuplicateTypeError where its name is taken."""
        if job_type.name in self._declared:
            raise DuplicateTypeError(f"two handlers are registered for job type {job_type.name!r}")
        self._declared[job_type.name] = job_type
        self._types[job_type.name] = self._wrapped(job_type)

    def wrap(self, middleware: Middleware) -> None:
        """Run `middleware` around every attempt of every type, inside those that were there before."""
        self._middlewares.append(middleware)
        self._types = {name: self._wrapped(job_type) for name, job_type in self._declared.items()}
        self.lay_over({})

    def _wrapped(self, job_type: JobType) -> JobType:
        # Without any there is nothing around, and nothing to pay for.
        if not self._middlewares:
            return job_type
        return replace(job_type, run=around(self._middlewares, job_type.run))

    def known_to(self, *, high_memory: bool) -> JobTypes:
        """Return the types that a worker knows: all of them, or those that ask for no high-memory worker."""
        return self if high_memory else JobTypes(t for t in self._types.values() if not t.needs_high_memory)

    def get(self, name: str) -> JobType | None:
        """Return the type of that name as it is to run now, or None."""
        return self._laid_over.get(name) or self._types.get(name)

    def declared(self, name: str) -> JobType | None:
        """Return the type of that name as its declaration says, or None."""
        return self._types.get(name)

    def lay_over(self, changed: Mapping[str, JobType]) -> None:
        """Run these types otherwise than they declare, and all others as they do."""
        self._laid_over = changed

    def names(self) -> tuple[str, ...]:
        """Return the names, sorted."""
        return tuple(sorted(self._types))

    def queues(self) -> tuple[str, ...]:
        """Return the queues that the types enqueue to, sorted."""
        return tuple(sorted({job_type.queue for job_type in self._types.values()} | {"default"}))
