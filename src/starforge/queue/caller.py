"""The caller's connection: the same statements over asyncpg, psycopg, SQLAlchemy or Django.

A driver is imported only when one of its connections is handed over; which one it is, is told by the
module of its class.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard
from uuid import UUID

import asyncpg

from starforge.db.pool import Connection
from starforge.db.statement import body
from starforge.queue.errors import CallerConnectionError

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    AsyncCaller = (
        Connection
        | psycopg.AsyncConnection[Any]
        | AsyncConnection
        | AsyncSession
        | async_scoped_session[AsyncSession]
    )
else:
    AsyncCaller = object

Rows = Sequence[Any]
"""Rows whose columns are found by their place, whatever the driver makes them."""

Fetch = Callable[[str, Sequence[Any]], Awaitable[Rows]]
FetchNow = Callable[[str, Sequence[Any]], Rows]

PLACE = re.compile(r"\$(\d+)")


class DjangoConnection(Protocol):
    """What django.db.connection, and each of django.db.connections, offers."""

    vendor: str

    def cursor(self) -> Any:
        """Open a cursor in the connection's transaction."""


if TYPE_CHECKING:
    SyncCaller = (
        psycopg.Connection[Any] | sa.Connection | Session | scoped_session[Session] | DjangoConnection
    )
else:
    SyncCaller = object


def is_asyncpg(conn: object) -> TypeGuard[Connection]:
    """Tell whether this is one of asyncpg's connections, also one that a pool lends."""
    return isinstance(conn, asyncpg.Connection)


def async_fetch(conn: AsyncCaller) -> Fetch:
    """Return how to run a statement on this connection and get its rows; raise CallerConnectionError."""
    if is_asyncpg(conn):
        return _asyncpg(conn)
    driver = _driver(conn)
    if driver == "psycopg":
        import psycopg

        if isinstance(conn, psycopg.AsyncConnection):
            return _psycopg_async(conn)
    if driver == "sqlalchemy":
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

        if isinstance(conn, (AsyncConnection, AsyncSession, async_scoped_session)):
            return _sqlalchemy_async(conn)
    raise _refused(conn, "async", "enqueue_sync" if _sync_fetch(conn) else "")


def sync_fetch(conn: SyncCaller) -> FetchNow:
    """Return how to run a statement on this connection and get its rows; raise CallerConnectionError."""
    fetch = _sync_fetch(conn)
    if fetch is None:
        raise _refused(conn, "sync", "enqueue" if is_asyncpg(conn) or _driver(conn) else "")
    return fetch


def _sync_fetch(conn: object) -> FetchNow | None:
    driver = _driver(conn)
    if driver == "psycopg":
        import psycopg

        if isinstance(conn, psycopg.Connection):
            return _psycopg(conn)
    if driver == "sqlalchemy":
        import sqlalchemy
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(conn, (sqlalchemy.Connection, Session, scoped_session)):
            return _sqlalchemy(conn)
    if driver == "django" and _is_django(conn):
        return _django(conn)
    return None


@cache
def rendered(text: str, style: str) -> str:
    """Return a statement with its places $1, $2 … as another driver writes them: `%(p1)s` or `:p1`."""
    bare = body(text)
    if style == "pyformat":
        return PLACE.sub(r"%(p\1)s", bare.replace("%", "%%"))
    # In brackets, so that the colons of a cast after it do not count as a part of the name.
    return PLACE.sub(r"(:p\1)", bare)


def named(values: Sequence[Any]) -> dict[str, Any]:
    """Return the values by the names of their places; ids as text, which every driver can carry."""
    return {f"p{n}": str(value) if isinstance(value, UUID) else value for n, value in enumerate(values, 1)}


def _asyncpg(conn: Connection) -> Fetch:
    async def fetch(text: str, values: Sequence[Any]) -> Rows:
        return await conn.fetch(text, *values)

    return fetch


def _psycopg(conn: psycopg.Connection[Any]) -> FetchNow:
    from psycopg import Cursor
    from psycopg.rows import tuple_row

    def fetch(text: str, values: Sequence[Any]) -> Rows:
        # A cursor of our own: the connection's factories may make rows and places of another kind.
        with Cursor(conn, row_factory=tuple_row) as cursor:
            return cursor.execute(rendered(text, "pyformat").encode(), named(values)).fetchall()

    return fetch


def _psycopg_async(conn: psycopg.AsyncConnection[Any]) -> Fetch:
    from psycopg import AsyncCursor
    from psycopg.rows import tuple_row

    async def fetch(text: str, values: Sequence[Any]) -> Rows:
        async with AsyncCursor(conn, row_factory=tuple_row) as cursor:
            await cursor.execute(rendered(text, "pyformat").encode(), named(values))
            return await cursor.fetchall()

    return fetch


def _sqlalchemy(caller: sa.Connection | Session | scoped_session[Session]) -> FetchNow:
    from sqlalchemy import Connection as Plain
    from sqlalchemy import text as statement

    def fetch(text: str, values: Sequence[Any]) -> Rows:
        # Through a session's connection nothing is flushed that its owner has not flushed.
        conn = caller if isinstance(caller, Plain) else caller.connection()
        _must_be_postgres(caller, conn.dialect.name)
        return conn.execute(statement(rendered(text, "named")), named(values)).fetchall()

    return fetch


def _sqlalchemy_async(caller: AsyncConnection | AsyncSession | async_scoped_session[AsyncSession]) -> Fetch:
    from sqlalchemy import text as statement
    from sqlalchemy.ext.asyncio import AsyncConnection as Plain

    async def fetch(text: str, values: Sequence[Any]) -> Rows:
        conn = caller if isinstance(caller, Plain) else await caller.connection()
        _must_be_postgres(caller, conn.dialect.name)
        return (await conn.execute(statement(rendered(text, "named")), named(values))).fetchall()

    return fetch


def _django(conn: DjangoConnection) -> FetchNow:
    def fetch(text: str, values: Sequence[Any]) -> Rows:
        _must_be_postgres(conn, conn.vendor)
        with conn.cursor() as cursor:
            cursor.execute(rendered(text, "pyformat"), named(values))
            rows: Rows = cursor.fetchall()
            return rows

    return fetch


def _is_django(conn: object) -> TypeGuard[DjangoConnection]:
    return hasattr(conn, "vendor")


def _must_be_postgres(caller: object, vendor: str) -> None:
    if vendor != "postgresql":
        raise CallerConnectionError(f"the {_name(caller)} is connected to {vendor}, not to Postgres")


def _driver(conn: object) -> str | None:
    """Return which of the known drivers the connection's class, or one that it derives from, belongs to."""
    roots = {base.__module__.partition(".")[0] for base in type(conn).__mro__}
    return next((driver for driver in ("psycopg", "sqlalchemy", "django") if driver in roots), None)


def _refused(conn: object, colour: str, other: str) -> CallerConnectionError:
    advice = f": use {other} for it" if other else ""
    return CallerConnectionError(f"a {_name(conn)} is no {colour} connection to enqueue on{advice}")


def _name(conn: object) -> str:
    return f"{type(conn).__module__}.{type(conn).__qualname__}"
