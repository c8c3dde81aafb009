"""The lasting pool: connections of a program that uses StarForge now and then, kept from one use to the next.

A program may have several event loops, one after the other or in threads, and a connection belongs to one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from starforge.db.pool import Connection, Pool

SIZE = 4
"""Connections per event loop; they are opened when that many are in use at once."""


class LastingPools:
    """A pool for each event loop, opened at its first use and closed when the loop shuts down."""

    def __init__(self, url: Callable[[], Awaitable[str]], *, application: str) -> None:
        """Make pools to the database that `url` tells when the first connection is needed."""
        self._url, self._application = url, application
        self._opened: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Pool]] = WeakKeyDictionary()
        self._held: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[Pool, None]] = (
            WeakKeyDictionary()
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; raise DatabaseUnreachableError or PoolExhaustedError where there is none."""
        async with (await self._pool()).connection() as conn:
            yield conn

    async def _pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        opening = self._opened.get(loop)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception())):
            opening = self._opened[loop] = loop.create_task(self._open(loop))
        # Whoever waits may be cancelled; the others wait for the same pool.
        return await asyncio.shield(opening)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Pool:
        held = self._hold()
        pool = await anext(held)
        self._held[loop] = held
        return pool

    async def _hold(self) -> AsyncGenerator[Pool, None]:
        """Open a pool, and close it when the loop, at its shutdown, closes the generators that are left."""
        pool = await Pool.open(await self._url(), size=SIZE, application=self._application)
        try:
            yield pool
        finally:
            await pool.close()
