"""Upkeep: what one process does for all, as a list of tasks that one loop runs under one lease.

Every supervisor offers itself; who holds the lease `upkeep` runs the tasks, one after the other, each when
it is due and for a limited time. A task that fails is said, counted and tried again later, and keeps none of
the others. How they go is noted in `upkeep_tasks`, for the pages and for whoever leads next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from starforge.clock import failpoint, monotonic_s, randomness
from starforge.db.leader import TROUBLE, Lease, Lend, lead
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.errors import told
from starforge.loop import backoff_s
from starforge.telemetry.metrics import UPKEEP_RUNS, start_at_zero

log = structlog.get_logger("upkeep")

LEASE = "upkeep"
TASK_S_MAX = 30.0
"""Longest that a task may take where its own bound is no shorter; a statement of it is then cancelled."""

AGAIN_S = 0.5
"""A task that has more to do comes again after the others that are due."""

SLICE_S = 1.0
"""A task that works in batches stops for others after this long."""

NOTE_S = 5.0
REST_S_MAX = 300.0
"""Longest that a task rests because it took long."""

RETRY_S = 1.0
RETRY_S_MIN = 5.0
RETRY_S_MAX = 60.0
ERROR_CHARS_MAX = 500

Work = Callable[[Connection, Lease], Awaitable[bool]]
"""What a task does on one connection, outside a transaction; it returns whether more is left to do soon."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that the leader does for all."""

    name: str
    every_s: float
    work: Work
    most_s: float = TASK_S_MAX
    share_max: float = 1.0
    """Share of its time that it may take: what takes long comes less often. For what only makes sure."""


def unfenced(work: Callable[[Connection], Awaitable[object]]) -> Work:
    """Make a task's work of a function that does no harm when two leaders run it at once."""

    async def run(conn: Connection, _lease: Lease) -> bool:
        await work(conn)
        return False

    return run


def in_batches(work: Callable[[Connection], Awaitable[int]], full: int) -> Work:
    """Make a task's work of a function that deals with at most `full` rows and returns how many they were."""

    async def run(conn: Connection, _lease: Lease) -> bool:
        until_s = monotonic_s() + SLICE_S
        while await work(conn) >= full:
            if monotonic_s() >= until_s:
                return True
        return False

    return run


@dataclass(slots=True)
class _Book:
    """What is known of a task in this term."""

    due_s: float
    failures: int = 0
    tried_s: float = 0.0
    done_s: float | None = None
    error: str | None = None
    ran_ms: float = 0.0
    unnoted: bool = False


class Upkeep:
    """The loop that runs the tasks while this process leads.

    Args:
        lend: Lends a connection for short questions: to take and renew the lease, and for the tasks too
            where there is no other.
        tasks: What is to be done; two of one name are refused with a ValueError.
        own: Opens a connection of its own for the tasks, used only while leading; None: they use `lend`.
        lease_s: How long a leader may be silent.
        task_s_max: Longest that any task may take.
        ended: Called when this process leads no more.
    """

    def __init__(
        self,
        lend: Lend,
        tasks: Sequence[Task],
        *,
        lease_s: float,
        own: Callable[[], Awaitable[Connection]] | None = None,
        task_s_max: float = TASK_S_MAX,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"two tasks of upkeep have one name: {', '.join(sorted(names))}")
        self._lend, self._tasks, self._own = lend, tasks, own
        self._lease_s, self._task_s_max, self._ended = lease_s, task_s_max, ended
        self._conn: Connection | None = None
        self._books: dict[str, _Book] = {}
        self._noted_s = 0.0
        start_at_zero(tasks=names)

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever nobody else does, until `stop`."""
        await lead(self._lend, LEASE, self._work, stop, lease_s=self._lease_s)

    async def _work(self, lease: Lease) -> None:
        """Run what is due, the longest due first, until the term ends."""
        now_s = monotonic_s()
        self._books = {task.name: _Book(due_s=now_s) for task in self._tasks}
        self._noted_s = now_s
        try:
            while self._tasks:
                task = min(self._tasks, key=lambda task: self._books[task.name].due_s)
                await asyncio.sleep(self._books[task.name].due_s - monotonic_s())
                await self._do(task, lease)
                await self._note(lease)
        finally:
            self._drop()
            self._ended()

    async def _do(self, task: Task, lease: Lease) -> None:
        book = self._books[task.name]
        book.tried_s = started_s = monotonic_s()
        more = False
        try:
            async with asyncio.timeout(min(task.most_s, self._task_s_max)), self._connection() as conn:
                failpoint(f"upkeep_{task.name}")
                more = await task.work(conn, lease)
        except Exception as error:  # one task's fault is not the others'
            book.failures += 1
            book.error = told(error)[:ERROR_CHARS_MAX]
            UPKEEP_RUNS.labels(task=task.name, result="failure").inc()
            say = log.warning if isinstance(error, TROUBLE) else log.exception
            say("upkeep.failed", task=task.name, failures=book.failures, error=book.error)
        else:
            book.failures, book.error, book.done_s = 0, None, monotonic_s()
            UPKEEP_RUNS.labels(task=task.name, result="success").inc()
        book.ran_ms, book.unnoted = (monotonic_s() - started_s) * 1000, True
        book.due_s = monotonic_s() + _pause_s(task, book, more=more)

    async def _note(self, lease: Lease) -> None:
        """Write down how the tasks went, every few seconds; what cannot be written is no fault of theirs."""
        now_s = monotonic_s()
        if now_s - self._noted_s < NOTE_S:
            return
        self._noted_s = now_s
        runs = [(task, self._books[task.name]) for task in self._tasks if self._books[task.name].unnoted]
        try:
            async with asyncio.timeout(self._task_s_max), self._connection() as conn:
                await conn.fetch(
                    sql("worker", "upkeep_note"),
                    [task.name for task, _ in runs],
                    [task.every_s for task, _ in runs],
                    [book.error for _, book in runs],
                    [book.ran_ms for _, book in runs],
                    [now_s - book.tried_s for _, book in runs],
                    [None if book.done_s is None else now_s - book.done_s for _, book in runs],
                    lease.name,
                    lease.holder,
                    lease.epoch,
                )
        except TROUBLE as error:
            log.warning("upkeep.unnoted", error=told(error))
            return
        for _, book in runs:
            book.unnoted = False

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Lend the connection that the tasks have; one that failed them is not used again."""
        if self._own is None:
            async with self._lend() as conn:
                yield conn
            return
        try:
            if self._conn is None or self._conn.is_closed():
                self._conn = await self._own()
            yield self._conn
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None


def _pause_s(task: Task, book: _Book, *, more: bool) -> float:
    """Return how long a task rests; one that failed comes back sooner where it is seldom due."""
    if book.failures:
        most_s = min(RETRY_S_MAX, max(RETRY_S_MIN, task.every_s))
        return backoff_s(book.failures, first_s=RETRY_S, most_s=most_s) * randomness.uniform(0.8, 1.2)
    if more:
        return min(AGAIN_S, task.every_s)
    return max(task.every_s, min(REST_S_MAX, book.ran_ms / 1000 / task.share_max))


async def ages(conn: Connection) -> dict[tuple[str], float]:
    """Return how many seconds ago each task succeeded last, whoever led then."""
    return {(row["name"],): row["age_s"] for row in await conn.fetch(sql("worker", "upkeep_ages"))}
