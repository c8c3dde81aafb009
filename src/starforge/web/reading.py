"""Reads that a page may wait for: bounded in time, shared by all who ask, never an old figure.

A database that is frozen answers nothing, not even to a cancellation. So nothing here waits for the
connection: the answer is awaited for a limited time, and the connection is cut when its own time is up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import asyncpg

from starforge.clock import monotonic_s
from starforge.db.errors import DatabaseUnreachableError
from starforge.db.pool import Connection, Pool, set_tenant
from starforge.ops.request import LOST
from starforge.settings import HomeSettings
from starforge.web.errors import NoAnswerError

T = TypeVar("T")

CUT_S = 6.0
"""A connection whose read takes longer is cut, so that a frozen server cannot use the pool up."""

HEALTH_S = 1.5
"""Longest time that health and a token's lookup wait; `/readyz` promises an answer within 2 s."""

FIGURES_S = 4.0
"""Longest time that figures are waited for: counting some ten million waiting jobs takes seconds."""

FRESH_S = 1.0
"""A read is shared by everyone who asks within this time."""

READ_ERRORS: tuple[type[BaseException], ...] = (*LOST, asyncpg.PostgresError)

_left_behind: set[asyncio.Task[Any]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; raise TimeoutError after `seconds`, whatever `work` still waits for."""
    task = asyncio.create_task(work)
    _left_behind.add(task)
    task.add_done_callback(_forget)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise TimeoutError(f"no answer within {seconds:g} s")
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # seen: a late failure was reported as a missing answer already


@asynccontextmanager
async def reading(pool: Pool) -> AsyncIterator[Connection]:
    """Lend a connection inside a read-only transaction that sees one moment of this process's tenant.

    Raises: DatabaseUnreachableError when the server is gone, or took longer than CUT_S.
    """
    loop = asyncio.get_running_loop()
    try:
        async with pool.connection() as conn:
            cut = loop.call_later(CUT_S, conn.terminate)
            try:
                async with conn.transaction(isolation="repeatable_read", readonly=True):
                    await set_tenant(conn, HomeSettings.read().tenant)
                    yield conn
            finally:
                cut.cancel()
    except READ_ERRORS as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise DatabaseUnreachableError(f"the database did not answer: {told}") from None


class Reading(Generic[T]):
    """One read, made at most every FRESH_S however many ask, and at most once at a time."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, wait_s: float) -> None:
        self._read, self._wait_s = read, wait_s
        self._task: asyncio.Task[T] | None = None
        self._done_s = 0.0

    async def get(self) -> T:
        """Return what was read within the last second, or read it now.

        Raises: NoAnswerError after `wait_s`, and what the read itself raises.
        """
        task = self._task
        if task is None or (task.done() and monotonic_s() - self._done_s > FRESH_S):
            task = self._task = asyncio.create_task(self._timed())
            task.add_done_callback(_forget)
        done, _ = await asyncio.wait({task}, timeout=self._wait_s)
        if not done:
            raise NoAnswerError(f"the database gave no answer within {self._wait_s:g} s")
        return task.result()

    async def _timed(self) -> T:
        try:
            return await self._read()
        finally:
            self._done_s = monotonic_s()


class Ahead(Generic[T]):
    """One read that every request needs: made anew before it is old, so that nobody waits while many ask."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, wait_s: float) -> None:
        self._read, self._wait_s = read, wait_s
        self._task: asyncio.Task[T] | None = None
        self._kept: tuple[float, T] | None = None
        """When it was begun to be read, and what was read."""

    async def get(self) -> T:
        """Return what was read at most FRESH_S ago.

        Raises: NoAnswerError after `wait_s`, and what the read itself raises.
        """
        if self._kept is not None:
            read_s, value = self._kept
            age_s = monotonic_s() - read_s
            if age_s < FRESH_S:
                if age_s > FRESH_S / 2:
                    self._under_way()
                return value
        task = self._under_way()
        done, _ = await asyncio.wait({task}, timeout=self._wait_s)
        if not done:
            raise NoAnswerError(f"the database gave no answer within {self._wait_s:g} s")
        return task.result()

    def forget(self) -> None:
        """Have the next who asks wait for a new read."""
        self._kept = None

    def _under_way(self) -> asyncio.Task[T]:
        """Return the read that is under way, a new one where there is none."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._make())
            self._task.add_done_callback(_forget)
        return self._task

    async def _make(self) -> T:
        began_s = monotonic_s()
        value = await self._read()
        self._kept = began_s, value
        return value
