"""The pool of connections: asyncpg, small and bounded, aware of poolers and roles."""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import asyncpg
import msgspec

from starforge.clock import monotonic_s
from starforge.db.errors import (
    DatabaseUnreachableError,
    DiskFullError,
    PoolExhaustedError,
    RoleUnsafeError,
    SchemaVersionError,
    StatementRefusedError,
)
from starforge.db.probing import plan_as_ever, plan_by_probes
from starforge.db.url import shown
from starforge.errors import StarForgeError
from starforge.settings import HomeSettings, Settings, setting

CONNECT_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""What asyncpg raises when the server is gone, going, starting or full."""

DATABASE_AWAY: tuple[type[Exception], ...] = (*CONNECT_ERRORS, DatabaseUnreachableError, PoolExhaustedError)
"""What a loop that outlives an outage waits out."""

MAY_PASS: tuple[type[Exception], ...] = (
    *DATABASE_AWAY,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidCachedStatementError,
)
"""What a statement need not meet again: the database is away, busy, full, or being operated on."""


class PoolSettings(Settings):
    """How many connections a process may hold, and to what."""

    url: str = setting(
        "",
        env="DATABASE_URL",
        unit="URL",
        meaning="Postgres to use: postgresql://user:password@host:port/database; empty: the embedded one.",
        secret=True,
    )
    pool_max: int = setting(
        8,
        env="PG_POOL_MAX",
        unit="connections",
        meaning="Most connections of one worker with all its children, or of one server.",
        ge=2,
        le=200,
    )
    acquire_s: float = setting(
        10.0,
        env="STARFORGE_PG_ACQUIRE_S",
        unit="seconds",
        meaning="Longest wait for a free connection before the caller is refused.",
        gt=0,
    )
    connect_s: float = setting(
        10.0,
        env="STARFORGE_PG_CONNECT_S",
        unit="seconds",
        meaning="Longest wait for a new connection to be made.",
        gt=0,
    )


if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

CLOSE_S_MAX = 2.0

JSONB_FORMAT = b"\x01"
"""jsonb travels in binary as a format number and the text; COPY takes binary only."""


async def _prepare(conn: Connection) -> None:
    """Let jsonb and json columns carry Python values."""
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: JSONB_FORMAT + msgspec.json.encode(value),
        decoder=lambda data: msgspec.json.decode(data[1:]),
        format="binary",
    )
    await conn.set_type_codec(
        "json",
        schema="pg_catalog",
        encoder=msgspec.json.encode,
        decoder=msgspec.json.decode,
        format="binary",
    )


async def _leave(conn: Connection) -> None:
    """Hand a connection back, without a full reset's round trip: of its state only PROBING was set."""
    if conn.is_in_transaction():
        await conn.execute("ROLLBACK")


async def connect(
    url: str, *, application: str = "starforge", cache: bool = True
) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection; raise DatabaseUnreachableError with what stood in the way."""
    try:
        # The login is not all: a pooler greets its client also while there is no server behind it.
        async with asyncio.timeout(PoolSettings.read().connect_s):
            return await _prepared(url, application, cache=cache)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise DatabaseUnreachableError(f"{shown(url)} refused the login: {error}") from None
    except asyncpg.InvalidCatalogNameError as error:
        raise DatabaseUnreachableError(f"{shown(url)}: {error}") from None
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        # The driver's words quote the URL, password and all.
        raise DatabaseUnreachableError(
            f"{shown(url)} cannot be read ({type(error).__name__}): write postgresql://user:password@host:port/name"
            ", with / # @ : and % of a password as %2F %23 %40 %3A %25"
        ) from None
    except CONNECT_ERRORS as error:
        raise DatabaseUnreachableError(f"{shown(url)} cannot be reached: {_why(error)}") from None


async def _prepared(url: str, application: str, *, cache: bool) -> asyncpg.Connection[asyncpg.Record]:
    """Log in and set the connection up; nothing of it is left open where that fails."""
    conn = await asyncpg.connect(
        url,
        timeout=PoolSettings.read().connect_s,
        statement_cache_size=100 if cache else 0,
        server_settings={"application_name": application},
    )
    try:
        if cache and await behind_pooler(conn):
            await conn.close()
            return await _prepared(url, application, cache=False)
        await _prepare(conn)
    except BaseException:
        conn.terminate()
        raise
    return conn


async def behind_pooler(conn: Connection) -> bool:
    """Tell whether a pooler sits between: it answers with a process id that is not the server's."""
    # Unnamed: a named one would stay on the pooler's connection and meet the first of the next process.
    statement = await conn.prepare("SELECT pg_backend_pid()", name="")
    pid = await statement.fetchval()
    return bool(pid != conn.get_server_pid())


class Pool:
    """At most `size` connections to one database, opened when needed and kept.

    Behind PgBouncer in transaction mode prepared statements do not outlive a transaction, so asyncpg's
    statement cache is switched off there by itself (`pooled` tells).
    """

    _pool: asyncpg.Pool

    def __init__(self, url: str, *, size: int, pooled: bool, application: str) -> None:
        self.url, self.size, self.pooled, self._application = url, size, pooled, application
        self._acquire_s = PoolSettings.read().acquire_s
        self.lost_at_s = -math.inf
        """When the pool last lost a connection or could not make one, on the monotonic clock."""

        self._free = asyncio.Semaphore(size)
        self._lent = 0
        self._probing: set[int] = set()  # process ids of the connections that are set so

    @classmethod
    async def open(cls, url: str, *, size: int | None = None, application: str = "starforge") -> Self:
        """Open a pool of at most `size` connections (PG_POOL_MAX where not given)."""
        first = await connect(url, application=application)
        pooled = await behind_pooler(first)
        await first.close()
        size = size or PoolSettings.read().pool_max
        return await cls.unopened(url, size=size, pooled=pooled, application=application)

    @classmethod
    async def unopened(cls, url: str, *, size: int, pooled: bool, application: str = "starforge") -> Self:
        """Make a pool that has not looked whether the database is there."""
        made = cls(url, size=size, pooled=pooled, application=application)
        made._pool = await made._driver_pool()
        return made

    @asynccontextmanager
    async def connection(self, *, probing: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection; raise PoolExhaustedError or DatabaseUnreachableError where there is none.

        With `probing` its statements are planned as PROBING says; not behind a pooler, where a connection
        is nobody's own.
        """
        await self._slot()
        try:
            try:
                conn = await self._pool.acquire(timeout=self._acquire_s)
            except CONNECT_ERRORS as error:
                self.lost_at_s = monotonic_s()
                raise DatabaseUnreachableError(
                    f"{shown(self.url)} cannot be reached: {_why(error)}"
                ) from None
            try:
                if not self.pooled and probing is not (conn.get_server_pid() in self._probing):
                    await self._plan(conn, probing=probing)
                yield conn
            finally:
                if _ended(conn):
                    self.lost_at_s = monotonic_s()
                # What goes wrong now is this connection's affair, and asyncpg has ended it then: it must
                # neither undo what the borrower did nor hide what the borrower met.
                with suppress(OSError, TimeoutError, asyncpg.PostgresError):
                    await self._pool.release(conn)
        finally:
            self._free.release()

    async def _plan(self, conn: Connection, *, probing: bool) -> None:
        """Have a connection's statements planned by probes, or as the server does it."""
        pid = conn.get_server_pid()
        try:
            await conn.execute(plan_by_probes() if probing else plan_as_ever())
        except BaseException:
            # Which way it is set now is not known.
            conn.terminate()
            raise
        if probing:
            self._probing.add(pid)
        else:
            self._probing.discard(pid)

    async def _slot(self) -> None:
        """Wait for the right to one connection."""
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self._acquire_s):
                await self._free.acquire()
        except TimeoutError:
            raise PoolExhaustedError(
                f"all {self.size} connections were busy for {self._acquire_s:g} s"
            ) from None

    async def lend(self) -> None:
        """Give up the right to one connection, for another process to open one, until `take_back`.

        Raises: PoolExhaustedError when all stay busy.
        """
        await self._slot()
        self._lent += 1
        try:
            while self._pool.get_size() > self.size - self._lent and self._pool.get_idle_size():
                idle = await self._pool.acquire(timeout=self._acquire_s)
                # What is closed is released by that.
                await idle.close(timeout=CLOSE_S_MAX)
        except BaseException:
            self.take_back()
            raise

    @property
    def lent(self) -> int:
        """Connections that other processes may have open in this one's stead."""
        return self._lent

    def take_back(self) -> None:
        """Take back the right that `lend` gave up: the other process's connection is closed."""
        self._lent -= 1
        self._free.release()

    @asynccontextmanager
    async def transaction(
        self, *, tenant: str | None = None, probing: bool = False
    ) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction that speaks for `tenant`."""
        async with self.connection(probing=probing) as conn, conn.transaction():
            if tenant is not None:
                await set_tenant(conn, tenant)
            yield conn

    async def reopen(self) -> None:
        """Close every connection, and have those to come in a new pool."""
        old, self._pool = self._pool, await self._driver_pool()
        await old.close()

    async def close(self) -> None:
        """Close every connection; one that does not end in time is cut."""
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()

    async def _driver_pool(self) -> asyncpg.Pool:
        settings = PoolSettings.read()
        return await asyncpg.create_pool(
            self.url,
            # No floor: asyncpg would try to restore it during an outage, with a traceback each time.
            min_size=0,
            max_size=self.size,
            timeout=settings.connect_s,
            statement_cache_size=0 if self.pooled else 100,
            max_inactive_connection_lifetime=300,
            server_settings={"application_name": self._application},
            init=self._opened,
            reset=_leave,
        )

    async def _opened(self, conn: Connection) -> None:
        """Set a new connection up; its process id may be that of an earlier one."""
        self._probing.discard(conn.get_server_pid())
        await _prepare(conn)


def _ended(conn: Connection) -> bool:
    """Tell whether a connection is over; the driver's pool takes it back by itself then."""
    try:
        return conn.is_closed()
    except asyncpg.InterfaceError:
        return True


async def set_tenant(conn: Connection, tenant: str, *, lock_ms_max: int | None = None) -> None:
    """Make the open transaction speak for `tenant`; ends with it, also behind a pooler.

    With `lock_ms_max` no statement of it waits longer than that for a lock.
    """
    if lock_ms_max is None:
        await conn.execute("SELECT set_config('starforge.tenant_id', $1, true)", tenant)
    else:
        both = "SELECT set_config('starforge.tenant_id', $1, true), set_config('lock_timeout', $2, true)"
        await conn.execute(both, tenant, str(lock_ms_max))


async def require_bound_role(conn: Connection, what: str) -> None:
    """Under enforced tenancy raise RoleUnsafeError where row security does not bind the current role."""
    if HomeSettings.read().tenancy != "enforced":
        return
    row = await conn.fetchrow(
        "SELECT current_user AS name, rolsuper, rolbypassrls,"
        " EXISTS (SELECT 1 FROM pg_class WHERE relname = 'queue_jobs'"
        " AND pg_has_role(relowner, 'MEMBER')) AS owns"
        " FROM pg_roles WHERE rolname = current_user"
    )
    assert row is not None
    faults = {"rolsuper": "is a superuser", "rolbypassrls": "has BYPASSRLS", "owns": "owns the tables"}
    found = [words for column, words in faults.items() if row[column]]
    if found:
        raise RoleUnsafeError(
            f"{what} runs as {row['name']}, which {' and '.join(found)}; STARFORGE_TENANCY is enforced"
        )


def _why(error: BaseException) -> str:
    # Leaving a transaction on a lost connection raises about the leaving; what lost it is behind that.
    if isinstance(error, asyncpg.InterfaceError) and error.__context__ is not None:
        error = error.__context__
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error) or type(error).__name__
    return text.splitlines()[0]


def explained(error: asyncpg.PostgresError | asyncpg.InterfaceError | OSError) -> StarForgeError:
    """Return an error of the driver or the system as one that says what to do."""
    if isinstance(error, asyncpg.DiskFullError) or getattr(error, "errno", None) == errno.ENOSPC:
        return DiskFullError(f"the disk is full: {error}")
    if isinstance(error, DATABASE_AWAY):
        return DatabaseUnreachableError(f"the connection to the database was lost: {_why(error)}")
    if isinstance(error, asyncpg.UndefinedTableError):
        return SchemaVersionError(f"the database has not StarForge's tables: {error}")
    state = getattr(error, "sqlstate", None)
    return StatementRefusedError(f"Postgres refused it{f' ({state})' if state else ''}: {_why(error)}")
