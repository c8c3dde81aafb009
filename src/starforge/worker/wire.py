"""The wire: a supervisor's one connection to the database, one question at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

from starforge.db.pool import MAY_PASS, Connection, connect

TROUBLE: tuple[type[Exception], ...] = (asyncpg.PostgresError, *MAY_PASS)
"""Whatever the database says: no upkeep and no note may end a worker that holds its lease."""

T = TypeVar("T")


class Wire:
    """One connection, opened when it is needed and dropped when it failed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._conn: Connection | None = None
        self._asking = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether there is a connection: False from a question that failed to the next one."""
        return self._conn is not None and not self._conn.is_closed()

    async def ask(self, what: Callable[[Connection], Awaitable[T]], *, within_s: float) -> T:
        """Ask something; a question that failed costs the connection.

        Raises: TimeoutError when there is no answer within `within_s`: the connection may be half-open.
        """
        async with self._asking:
            try:
                async with asyncio.timeout(within_s):
                    return await what(await self._connected())
            except BaseException:
                self.drop()
                raise

    @asynccontextmanager
    async def lent(self, within_s: float | None = None) -> AsyncIterator[Connection]:
        """Lend the connection for a question whose time the borrower limits; see `ask`.

        With `within_s` it is dropped after so long, whatever the borrower waits for: a transaction that is
        cancelled waits for the server to say so, and one that is gone without a word never does.
        """
        async with self._asking:
            dropping: asyncio.TimerHandle | None = None
            try:
                async with asyncio.timeout(within_s):
                    conn = await self._connected()
                if within_s is not None:
                    dropping = asyncio.get_running_loop().call_later(within_s, self.drop)
                yield conn
            except BaseException:
                self.drop()
                raise
            finally:
                if dropping is not None:
                    dropping.cancel()

    async def _connected(self) -> Connection:
        if self._conn is None or self._conn.is_closed():
            self._conn = await connect(self._url, application="starforge supervisor")
        return self._conn

    def drop(self) -> None:
        """Let go of the connection, without a word."""
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None
