"""Which database this process uses: the one of DATABASE_URL, else the embedded one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starforge.db.embedded import EmbeddedServer, acquire, peek
from starforge.db.migrate import migrate
from starforge.db.pool import PoolSettings, connect
from starforge.db.roles import role_name
from starforge.db.url import with_user
from starforge.settings import HomeSettings


class Database:
    """A database to work with; `url(role)` says how to log in for what."""

    def __init__(self, given: str, embedded: EmbeddedServer | None) -> None:
        self._given, self.embedded = given, embedded

    def url(self, role: str) -> str:
        """Return the URL for a role: owner, engine, app, operator, or admin for whoever may do all.

        With DATABASE_URL it is that URL as it stands: the login is the administrator's choice.
        """
        return self._given if self.embedded is None else self.embedded.dsn(role)

    def revive(self) -> bool:
        """Start the embedded server again where it died; return whether that was needed."""
        if self.embedded is None or peek(HomeSettings.read().home) is not None:
            return False
        dead, self.embedded = self.embedded, acquire(HomeSettings.read().home)
        dead.release()
        return True

    def release(self) -> None:
        """Stop using it; the embedded server stops with its last user."""
        if self.embedded is not None:
            self.embedded.release()


def open_database() -> Database:
    """Return the database to use, starting the embedded server where DATABASE_URL is not set."""
    given = PoolSettings.read().url
    if given:
        return Database(given, None)
    return Database("", acquire(HomeSettings.read().home))


@asynccontextmanager
async def database(*, migrated: bool = True) -> AsyncIterator[Database]:
    """Use the database for the length of a `with` block; the embedded one is migrated on the way.

    The schema of a DATABASE_URL is never touched unasked: `starforge migrate` does that.
    """
    opened = await asyncio.to_thread(open_database)
    try:
        if migrated and opened.embedded is not None:
            await _migrated(opened.url("admin"))
        yield opened
    finally:
        await asyncio.to_thread(opened.release)


async def enqueue_url() -> str:
    """Return the URL for enqueueing from a user's program; the embedded server is joined or started."""
    given = PoolSettings.read().url
    if given:
        return given
    home = HomeSettings.read().home
    running = await asyncio.to_thread(peek, home)
    if running is None:
        running = await asyncio.to_thread(acquire, home)
        await _migrated(running.dsn("admin"))
    return running.dsn("engine")


async def _migrated(url: str) -> None:
    conn = await connect(url)
    try:
        await migrate(conn)
    finally:
        await conn.close()


def address_of_role(given: str, role: str) -> str:
    """Return DATABASE_URL where it is the role's already, else with the role as its user and no password."""
    name = role_name(role)
    return given if urlsplit(given).username == name else with_user(given, name)
