"""A PgBouncer in transaction mode between the workers and the server, for its own figures."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starforge.clock import monotonic_s
from starforge.db.server import Database
from starforge.dev.errors import BenchNotPossibleError

POOL_SIZE = 20
START_S_MAX = 10.0
ACCOUNT = "nobody"
"""Who runs it where we are root: it refuses to."""


@asynccontextmanager
async def pgbouncer(server: Database, role: str) -> AsyncIterator[int]:
    """Run it before the server for the length of a `with` block; give its port on this machine.

    Raises: BenchNotPossibleError where it is not installed or does not start.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")
    if program is None:
        raise BenchNotPossibleError("there is no pgbouncer on this machine")
    folder = Path(tempfile.mkdtemp(prefix="starforge-bench-bouncer-"))
    try:
        port = _free_port()
        account = pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None
        _configure(folder, server, role, port)
        if account is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        process = _start([program, "-q", str(folder / "pgbouncer.ini")], account)
        try:
            await _listens(process, port)
            yield port
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)


def _start(command: list[str], account: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
    """Start it as the account; not every event loop could."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def _configure(folder: Path, server: Database, role: str, port: int) -> None:
    users = {}
    for name in {role, "admin"}:
        parts = urlsplit(server.url(name))
        users[unquote(parts.username or "")] = unquote(parts.password or "")
    secret = any(users.values())
    to = urlsplit(server.url("admin"))
    _write(folder / "users", "".join(f'"{user}" "{password}"\n' for user, password in users.items()))
    _write(
        folder / "pgbouncer.ini",
        f"[databases]\n* = host={to.hostname} port={to.port or 5432}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = {'scram-sha-256' if secret else 'trust'}\nauth_file = {folder / 'users'}\n"
        f"pool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 200\nlogfile =\n",
    )


def _write(file: Path, text: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = monotonic_s() + START_S_MAX
    while monotonic_s() < deadline_s:
        if process.poll() is not None:
            raise BenchNotPossibleError(f"pgbouncer ended with status {process.returncode}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise BenchNotPossibleError(f"pgbouncer does not listen after {START_S_MAX:g} s")
