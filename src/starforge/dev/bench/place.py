"""Where a benchmark runs: a server, a database of its own on it, and connections to that."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from starforge.db.binaries import Binaries
from starforge.db.embedded import acquire
from starforge.db.folder import make_home
from starforge.db.migrate import migrate
from starforge.db.pool import Connection, connect
from starforge.db.server import Database, database
from starforge.dev.errors import BenchNotPossibleError
from starforge.settings import HomeSettings

DEBIAN = Path("/usr/lib/postgresql")
DEBIAN_SHARE = Path("/usr/share/postgresql")
PREFIX = "starforge_bench_"


@dataclass(frozen=True, slots=True)
class Place:
    """A migrated database of the benchmark's own."""

    admin_url: str
    url: str
    admin: Connection
    conn: Connection


@asynccontextmanager
async def place(server: Database, role: str, *, through: int | None = None) -> AsyncIterator[Place]:
    """Make a migrated database for the length of a `with` block; it is dropped also on Ctrl-C.

    Args:
        server: Where to make it.
        role: Database role of producer and workers: engine (bound by row security) or admin.
        through: Port of a pooler that producer and workers go through.
    """
    async with empty_database(server) as admin_url:
        url = in_database(server.url(role), urlsplit(admin_url).path[1:], port=through)
        admin = await connect(admin_url, application="starforge bench")
        try:
            await migrate(admin)
            conn = await connect(url, application="starforge bench")
            try:
                yield Place(admin_url, url, admin, conn)
            finally:
                await conn.close()
        finally:
            await admin.close()


@asynccontextmanager
async def empty_database(server: Database) -> AsyncIterator[str]:
    """Make an empty database for the length of a `with` block; give its URL for whoever may do all."""
    name = f"{PREFIX}{uuid4().hex[:8]}"
    admin = await connect(server.url("admin"), application="starforge bench")
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        try:
            yield in_database(server.url("admin"), name)
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def in_database(url: str, name: str, *, port: int | None = None) -> str:
    """Return the URL with another database, and with a port of this machine where one is given."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    where = parts.netloc if port is None else f"{login}{at}127.0.0.1:{port}"
    return urlunsplit((parts.scheme, where, f"/{name}", parts.query, parts.fragment))


@asynccontextmanager
async def serving(postgres: int | None = None) -> AsyncIterator[Database]:
    """Use this process's database server, or a throw-away one of Debian's Postgres `postgres`.

    The throw-away server has the settings of the embedded one, fsync included, and lies on the same disk.
    Raises: BenchNotPossibleError where that version is not installed.
    """
    if postgres is None:
        async with database(migrated=False) as found:
            yield found
        return
    if not (DEBIAN / f"{postgres}" / "bin" / "initdb").exists():
        raise BenchNotPossibleError(f"there is no Postgres {postgres} in {DEBIAN}/{postgres}")
    home = Path(tempfile.mkdtemp(prefix="bench-", dir=make_home(HomeSettings.read().home)))
    try:
        home.chmod(0o711)
        server = await asyncio.to_thread(acquire, home, binaries=_debian(postgres, home))
        try:
            yield Database("", server)
        finally:
            await asyncio.to_thread(server.release)
    finally:
        shutil.rmtree(home)


def _debian(major: int, folder: Path) -> Binaries:
    """Lay Debian's programs out as the wheel does; they find their libraries by the folder they are in."""
    package = folder / "debian"
    (package / "pginstall").mkdir(parents=True)
    for part in (package, package / "pginstall"):
        part.chmod(0o755)
    (package / "pginstall" / "bin").symlink_to(DEBIAN / f"{major}" / "bin")
    (package / "pginstall" / "share").symlink_to(DEBIAN_SHARE / f"{major}")
    return Binaries(package, f"{major}.0")
