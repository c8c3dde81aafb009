"""A PgBouncer in transaction mode before the session's server; its tests are marked system("pgbouncer")."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres import TestServer

POOL_SIZE = 2
"""Server connections per database and user: clients that are more than this share them."""


@contextmanager
def pgbouncer(server: TestServer, *, pool_size: int = POOL_SIZE) -> Iterator[int]:
    """Run a PgBouncer for the length of a `with` block; give its port."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="sf-pgbouncer-"))
    folder.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    users = ("tester", "starforge_owner", "starforge_engine", "starforge_app", "starforge_operator")
    (folder / "users").write_text("".join(f'"{user}" ""\n' for user in users))
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
        f"default_pool_size = {pool_size}\nmax_client_conn = 1000\nlogfile =\n"
    )
    # It refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    process = subprocess.Popen(
        [program, "-q", str(folder / "pgbouncer.ini")],
        stderr=subprocess.PIPE,
        text=True,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    try:
        _await(process, port)
        yield port
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder)


def _await(process: subprocess.Popen[str], port: int) -> None:
    for _ in range(500):
        if process.poll() is not None:
            raise RuntimeError(f"pgbouncer ended: {process.communicate()[1]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise RuntimeError("pgbouncer does not listen")
