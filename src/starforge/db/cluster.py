"""One cluster of the embedded server: its data directory, made, configured, started and stopped.

    embedded/<major>/data            made by initdb, owned by the service account
    embedded/<major>/starforge.conf  our settings, written at every start; data/postgresql.conf includes it
    embedded/<major>/pg_hba.conf     who may log in: passwords only
    embedded/<major>/server.json     the port, and the run that has its roles
    embedded/<major>/server.log
    embedded/<major>/server.lock     held by the server and all its children
    embedded/<major>/socket/

The configuration lies beside the data, not in it: there it is ours, also when the data is another
account's. The server inherits the open, locked `server.lock`, so the lock is free exactly when no
process of it is left, whatever number a stale postmaster.pid names.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from starforge.clock import monotonic_s
from starforge.db.binaries import Account, Binaries
from starforge.db.errors import DiskFullError, EmbeddedFailedError, EmbeddedVersionError
from starforge.db.folder import ADMIN, POLL_S, EmbeddedFolder, lock, make_folder, unlock, write
from starforge.db.roles import role_name

START_S_MAX = 60
STOP_S_MAX = 60.0
DISK_FULL = ("No space left on device", "Check free disk space")
LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_LINES_SHOWN = 12
LOG_BYTES_SHOWN = 16 * 1024
SAME_START_S = 5.0
SOCKET_PATH_BYTES_MAX = 107
"""sun_path of a Unix socket on Linux, less its closing zero."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "cluster_name": "starforge",
    "shared_preload_libraries": "pg_stat_statements",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # Nothing streams from this server, and a backup of it is a dump.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_checkpoints": "off",
}

HBA = """\
# Written by StarForge at every start: a password for everyone, nobody from elsewhere.
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""


class PortTakenError(Exception):
    """Another process listens on the port that the server was to have."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What postmaster.pid says: process id, start (seconds since 1970) and port."""

    pid: int
    started: int
    port: int

    @property
    def run(self) -> str:
        """What tells this run of the server from any other."""
        return f"{self.pid}@{self.started}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster of one major version."""

    folder: EmbeddedFolder
    major: int

    @property
    def path(self) -> Path:
        """The cluster's folder."""
        return self.folder.path / str(self.major)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / "server.log"

    @property
    def socket_dir(self) -> Path | None:
        """Where the Unix socket is; a short folder of the home's, or none, where the path gets too long."""
        for folder in (self.path / "socket", self.folder.home / "s"):
            if len(os.fsencode(folder / ".s.PGSQL.65535")) <= SOCKET_PATH_BYTES_MAX:
                return folder
        return None

    def make_folder(self) -> None:
        """Make the cluster's folder; the service account may pass through it, not list it."""
        make_folder(self.path)

    def check_version(self) -> None:
        """Raise EmbeddedVersionError when the data here was made by another major version."""
        file = self.data / "PG_VERSION"
        others = sorted(self.folder.path.glob("[0-9]*/data/PG_VERSION"))
        if file not in others and others:
            file = others[-1]
        found = file.read_text().strip() if file.exists() else str(self.major)
        if found != str(self.major):
            raise EmbeddedVersionError(
                f"{file.parent} was made by Postgres {found}; the installed wheel is Postgres {self.major}, "
                f"which keeps its data in {self.data}"
            )

    def memory(self) -> tuple[int, str]:
        """Return the port that the server had last (0: none yet) and the run that got its roles."""
        try:
            kept = json.loads((self.path / "server.json").read_text("utf-8"))
            return int(kept["port"]), str(kept["run"])
        except (FileNotFoundError, ValueError, KeyError):
            return 0, ""

    def remember(self, port: int, run: str) -> None:
        """Keep what `memory` returns."""
        write(self.path / "server.json", json.dumps({"port": port, "run": run}), mode=0o644)

    def hold(self) -> int | None:
        """Take the server's lock; None while any process of the server lives."""
        return lock(self.path / "server.lock", fcntl.LOCK_EX)

    def postmaster(self) -> Postmaster | None:
        """Read postmaster.pid; None where there is none or it is not complete."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return Postmaster(int(lines[0]), int(lines[2]), int(lines[3]))
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def make(self, binaries: Binaries, account: Account, password: str, held: int) -> None:
        """Make the data directory: under a passing name, so that a broken attempt is never taken for one."""
        passing, pwfile = self.path / "data.new", self.path / "initdb.pw"
        shutil.rmtree(passing, ignore_errors=True)
        passing.mkdir(mode=0o700)
        account.own(passing)
        write(pwfile, password, mode=0o600)
        account.own(pwfile)
        argv: list[str | Path] = [
            binaries.bin / "initdb",
            "-D",
            passing,
            "-U",
            role_name(ADMIN),
            "--no-instructions",
        ]
        argv += ["--auth=scram-sha-256", f"--pwfile={pwfile}", "--encoding=UTF8", "--locale=C"]
        if self.major >= 17:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            done = account.run(argv, keep=[held])
        finally:
            pwfile.unlink()
        if done.returncode != 0:
            raise self.failure("could not be set up by initdb", done.stdout + done.stderr)
        write(passing / "postgresql.conf", "include '../starforge.conf'\n", mode=0o600)
        passing.rename(self.data)

    def configure(self, account: Account, port: int, options: Mapping[str, str]) -> None:
        """Write the configuration and make the socket's folder."""
        sockets = self.socket_dir
        values = {
            "port": str(port),
            "hba_file": str(self.path / "pg_hba.conf"),
            "unix_socket_directories": "",
        }
        if sockets is not None:
            sockets.mkdir(exist_ok=True)
            sockets.chmod(0o700)
            account.own(sockets)
            values["unix_socket_directories"] = f'"{sockets}"'
        lines = [f"{name} = {_quoted(value)}" for name, value in (SETTINGS | values | dict(options)).items()]
        head = (
            "# Written by StarForge at every start. Change settings with ALTER SYSTEM: it has the last word."
        )
        write(self.path / "starforge.conf", "\n".join([head, *lines, ""]), mode=0o644)
        write(self.path / "pg_hba.conf", HBA, mode=0o644)

    def start(self, binaries: Binaries, account: Account, held: int) -> Postmaster:
        """Start the server, wait until it takes connections, and return its run.

        Args:
            binaries: What to run, within the account's reach.
            account: Who runs it.
            held: The server's lock, which the server inherits.
        Raises: PortTakenError; DiskFullError; EmbeddedFailedError with the end of the log.
        """
        self._clear_stale()
        known = self._open_log(account)
        argv: list[str | Path] = [binaries.bin / "pg_ctl", "start", "-s", "-w", "-t", str(START_S_MAX)]
        argv += ["-D", self.data, "-l", self.log]
        done = account.run(argv, timeout_s=START_S_MAX + 10, keep=[held])
        running = self.postmaster()
        if done.returncode == 0 and running is not None:
            return running
        said = self.log_end(known) + done.stderr
        if "Address already in use" in said:
            raise PortTakenError
        slow = "not start in time" in said
        raise self.failure(f"did not get ready within {START_S_MAX} s" if slow else "did not start", said)

    def stop(self) -> None:
        """Shut the server down fast and wait until its last process is gone.

        Raises: EmbeddedFailedError when it takes longer than STOP_S_MAX.
        """
        deadline = monotonic_s() + STOP_S_MAX
        told = False
        while (held := self.hold()) is None:
            postmaster = self.postmaster()
            if not told and postmaster is not None and self._runs(postmaster):
                told = True
                os.kill(postmaster.pid, signal.SIGINT)  # what `pg_ctl stop -m fast` sends
            if monotonic_s() > deadline:
                raise self.failure(f"did not stop within {STOP_S_MAX:g} s", self.log_end())
            time.sleep(POLL_S)
        unlock(held)

    def log_end(self, since: int = 0) -> str:
        """Return the end of the log, of what was written after its first `since` bytes."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(since, self.log.stat().st_size - LOG_BYTES_SHOWN))
                return stream.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def failure(self, what: str, said: str) -> EmbeddedFailedError | DiskFullError:
        """Make the error that says what the server said."""
        if any(sign in said for sign in DISK_FULL):
            return DiskFullError(f"the embedded Postgres {what}: no space left on the disk of {self.path}")
        shown = "\n".join(f"    {line}" for line in said.strip().splitlines()[-LOG_LINES_SHOWN:])
        return EmbeddedFailedError(
            f"the embedded Postgres {what} (log: {self.log}); the last it said:\n{shown}"
        )

    def _clear_stale(self) -> None:
        """Remove the lock files of a server that is gone: Postgres believes the process id they name.

        After a kill or a reboot that number may be another process's. The lock that we hold proves that no
        server of ours is left; one that somebody started by hand does not hold it, and is looked for.
        """
        left = self.postmaster()
        if left is not None and self._runs(left):
            raise EmbeddedFailedError(
                f"process {left.pid} is a Postgres on {self.data} that StarForge did not start: stop it first"
            )
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for stale in self.socket_dir.glob(".s.PGSQL.*") if self.socket_dir else ():
            stale.unlink()

    def _runs(self, postmaster: Postmaster) -> bool:
        """Tell whether the process is this postmaster, and not one that got its number later."""
        try:
            process = psutil.Process(postmaster.pid)
            if process.status() == psutil.STATUS_ZOMBIE or "postgres" not in process.name():
                return False
            if process.uids().real != self.data.stat().st_uid:
                return False
            apart_s = abs(process.create_time() - postmaster.started)
            return str(self.data) in process.cmdline() or apart_s < SAME_START_S
        except psutil.NoSuchProcess:
            return False

    def _open_log(self, account: Account) -> int:
        """Make the log, or set a long one aside; return its length in bytes."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            account.own(handle)
            return os.fstat(handle).st_size
        finally:
            os.close(handle)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
