"""The embedded server's folder under STARFORGE_HOME: its files, their owners, its locks and passwords.

    embedded/control.lock      held by whoever starts or stops the server
    embedded/users.lock        held, shared, by every process that uses it
    embedded/passwords.json    one secret per role, mode 0600
    embedded/bin-<version>/    a copy of the wheel's binaries, where the service account needs one
    embedded/<major>/          one cluster, see cluster.py

Every lock is an flock: the kernel drops it with its holder, so kill -9 leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starforge.clock import monotonic_s
from starforge.db.errors import EmbeddedFailedError
from starforge.db.roles import ROLES

ADMIN = "admin"
CONTROL_S_MAX = 180.0
"""Longest wait for another process that starts or stops the server: a start and a stop at their bounds."""

POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class EmbeddedFolder:
    """`embedded` under the home folder, which is absolute and free of links."""

    home: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.home / "embedded"

    @property
    def users_lock(self) -> Path:
        """Held, shared, by every process that uses the server."""
        return self.path / "users.lock"

    def make(self) -> None:
        """Make the folder where it is missing."""
        make_folder(self.path)

    @contextmanager
    def control(self) -> Iterator[None]:
        """Be the only process that starts or stops the server."""
        deadline = monotonic_s() + CONTROL_S_MAX
        while (held := lock(self.path / "control.lock", fcntl.LOCK_EX)) is None:
            if monotonic_s() > deadline:
                raise EmbeddedFailedError(
                    f"another process has been starting or stopping the server for {CONTROL_S_MAX:g} s: "
                    f"see who holds {self.path / 'control.lock'}"
                )
            time.sleep(POLL_S)
        try:
            yield
        finally:
            unlock(held)

    def passwords(self, *, make: bool) -> dict[str, str]:
        """Read the secret of each role, admin included.

        Args:
            make: Make the ones that are missing. For a cluster that has its roles already, an absent
                file cannot be made up for.
        Raises: EmbeddedFailedError when the file is absent, another user's, or not what was written.
        """
        file = self.path / "passwords.json"
        try:
            found: dict[str, str] = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            if not make:
                raise EmbeddedFailedError(
                    f"{file} is missing: the data beside it cannot be opened without it"
                ) from None
            found = {}
        except PermissionError:
            raise EmbeddedFailedError(f"{file} belongs to another user: run as that user") from None
        except ValueError as error:
            raise EmbeddedFailedError(f"{file} cannot be read: {error}") from None
        missing = [role for role in (ADMIN, *ROLES) if role not in found]
        if missing:
            found |= {role: secrets.token_urlsafe(24) for role in missing}
            write(file, json.dumps(found, indent=2), mode=0o600)
        return found


def make_home(home: Path) -> Path:
    """Make the home folder where it is missing and return it, absolute and free of links.

    What is missing on the way is made too. A folder that exists keeps the permissions it has.
    """
    home = home.expanduser().resolve()
    for folder in (*reversed(home.parents), home):
        make_folder(folder)
    return home


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, owned as the one it lies in.

    Only its owner may look into it; as root, the service account may pass through it.
    """
    if folder.is_dir():
        return
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    _own_like_parent(folder, folder)
    if os.geteuid() == 0:
        folder.chmod(0o711)


def write(file: Path, text: str, *, mode: int) -> None:
    """Replace a file at once and durably, owned as the folder it lies in."""
    passing = file.with_name(f"{file.name}.new")
    passing.unlink(missing_ok=True)
    handle = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "w", encoding="utf-8") as stream:
        os.fchmod(handle, mode)
        _own_like_parent(handle, file)
        stream.write(text)
        stream.flush()
        os.fsync(handle)
    passing.replace(file)


def lock(file: Path, kind: int) -> int | None:
    """Take an flock on a file, made where it is missing; return its open file, or None when it is held."""
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        _own_like_parent(handle, file)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def unlock(handle: int) -> None:
    """Let the lock go, also for children that were forked with the file open."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _own_like_parent(target: Path | int, file: Path) -> None:
    """As root in a user's home, leave what is made there to that user."""
    if os.geteuid() == 0:
        owner = file.parent.stat()
        os.chown(target, owner.st_uid, owner.st_gid)
