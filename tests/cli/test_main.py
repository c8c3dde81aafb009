"""The command line as a program: what it prints where, and the exit code that it ends with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from starforge import __version__
from starforge.app import StarForge
from starforge.cli.main import app as command_line
from starforge.cli.tidy import flowing
from starforge.clock import monotonic_s
from starforge.db import migrate as m
from starforge.db.pool import Pool, connect
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.gate import close
from starforge.queue.job import NewJob
from starforge.settings import GROUPS
from tests.covers import covers
from tests.foundation.package import modules
from tests.postgres import TestServer
from tests.queue.jobs import a_worker

NOWHERE = "postgresql://ann:hunter2@127.0.0.1:1/x"

app = StarForge("counted")


@app.job("counted.noop")
async def noop() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Starforge = Callable[..., Awaitable[Done]]


@asynccontextmanager
async def running(*words: str, **changed: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command with these variables changed; end it with the `with` block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "starforge",
        *words,
        env={**os.environ, "STARFORGE_DISK_FREE_MB_MIN": "10", **changed},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run(*words: str, **changed: str) -> Done:
    async with running(*words, **changed) as process, asyncio.timeout(30):
        out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
def starforge(database: str) -> Starforge:
    """Run a command as a program on the test's own migrated database."""

    async def call(*words: str, **changed: str) -> Done:
        return await run(*words, **{"DATABASE_URL": database, **changed})

    return call


@pytest.fixture
def invoke(database: str, monkeypatch: pytest.MonkeyPatch) -> Starforge:
    """Run a command inside this process: what it says, for a fiftieth of the time."""

    async def call(*words: str, **changed: str) -> Done:
        for name, value in {
            "DATABASE_URL": database, "STARFORGE_DISK_FREE_MB_MIN": "10", **changed
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        done = await asyncio.to_thread(CliRunner().invoke, command_line, list(words))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    return call


async def test_the_version_and_the_help_need_no_database(starforge: Starforge) -> None:
    version, helped = await asyncio.gather(
        starforge("--version", DATABASE_URL=NOWHERE), starforge("-h", DATABASE_URL=NOWHERE)
    )
    assert (version.code, version.out, version.err) == (0, f"starforge {__version__}\n", "")
    assert helped.code == 0
    for command in ("up", "worker", "server", "doctor", "settings", "migrate", "demo", "db", "queue", "ops"):
        assert f" {command} " in helped.out


async def test_ctrl_c_while_the_program_still_starts_ends_it_without_a_word() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", "-m", "starforge", "--version",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    while b"typer" not in (line := await process.stderr.readline()):
        assert line, "it ended before its modules were read"
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def test_help_flows_and_ls_is_list_in_every_group() -> None:
    assert flowing("One\ntwo.\n\nThree\nfour.") == "One two.\n\nThree four."
    for words in (["token", "list"], ["token", "ls"], ["snapshot", "ls"], ["queue", "list"]):
        assert CliRunner().invoke(command_line, [*words, "-h"]).exit_code == 0
    told = CliRunner().invoke(command_line, ["subject", "erase", "-h"], env={"COLUMNS": "300"}).output
    assert "Rows that several subjects share stay, and so does what other subjects' documents say" in told


def test_every_group_says_what_it_is_for() -> None:
    assert "Commands on:" not in CliRunner().invoke(command_line, ["-h"]).output


@covers("X-17")
async def test_an_unknown_command_or_option_is_misused_and_says_nothing_on_standard_output(
    starforge: Starforge,
) -> None:
    unknown, nothing = await asyncio.gather(starforge("fly"), starforge("queue", "pause", "mail"))
    assert [(done.code, done.out) for done in (unknown, nothing)] == [(2, "")] * 2
    assert "fly" in unknown.err
    assert "--reason" in nothing.err


@pytest.fixture
async def emptied(database: str) -> None:
    """Take everything out of the test's own database."""
    conn = await connect(database)
    await conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await conn.close()


@pytest.mark.usefixtures("emptied")
async def test_migrate_shows_what_is_pending_and_applies_it_once(
    starforge: Starforge, invoke: Starforge
) -> None:
    names = [migration.file for migration in m.migrations()]
    dry = await invoke("migrate", "--dry-run")
    assert dry.out.splitlines() == [f"would apply {name}" for name in names]
    status = await invoke("migrate", "--status")
    assert [line.split()[-1] for line in status.out.splitlines()[1:]] == ["pending"] * len(names)

    first = await starforge("migrate", "--json")
    assert (first.code, first.err) == (0, "")
    assert first.document == {"applied_before": [], "pending": [], "applied_now": names}

    again = await invoke("migrate")
    assert again.out == f"nothing to do: the schema is at version {len(names)}\n"
    status = await invoke("migrate", "--status", "--json")
    assert status.document == {"applied_before": names, "pending": [], "applied_now": []}


@pytest.mark.usefixtures("emptied")
async def test_what_needs_a_schema_refuses_one_that_was_never_migrated_in_one_sentence(
    starforge: Starforge, invoke: Starforge
) -> None:
    worker = await starforge("worker", "--log-level", "error")
    assert worker.code == 1
    said, remedy = worker.err.splitlines()
    assert said.startswith("SF107: the schema is at version 0 and this worker needs")
    assert "starforge migrate" in remedy
    doctor = await invoke("doctor", "--json")
    assert doctor.code == 1
    assert {"fault"} == {f["state"] for f in doctor.document if f["check"] == "migrations"}


@covers("X-17")
async def test_the_doctor_answers_with_a_document_and_0_where_nothing_is_at_fault(invoke: Starforge) -> None:
    asked, told = await invoke("doctor", "--json"), await invoke("doctor")
    assert asked.code == told.code == 0
    assert [(f["check"], f["state"]) for f in asked.document] == [
        ("disk", "ok"),
        ("object store", "ok"),
        ("connection", "warning"),  # the test server's fsync is off
        ("roles", "ok"),
        ("migrations", "ok"),
        ("extensions", "ok"),
        ("pooler", "ok"),
        ("connection budget", "ok"),
        ("mappings", "ok"),
        ("ingestion", "ok"),
    ]
    assert "→ Set fsync and full_page_writes and synchronous_commit = on" in told.out


@covers("X-16")
async def test_settings_lists_every_setting_of_every_room_and_where_it_comes_from(
    starforge: Starforge,
) -> None:
    done = await starforge("settings", "--json", PG_POOL_MAX="5")
    assert done.code == 0, done.err
    lines = {line["env"]: line for line in done.document}
    modules()
    groups = [group for group in GROUPS.values() if group.__module__.startswith("starforge.")]
    declared = {str(field.validation_alias) for group in groups for field in group.model_fields.values()}
    assert set(lines) == declared
    assert {"DATABASE_URL", "WORKER_CONCURRENCY", "PG_POOL_MAX", "TENANT_ID", "METRICS_PORT"} <= set(lines)
    assert (lines["PG_POOL_MAX"]["value"], lines["PG_POOL_MAX"]["source"]) == ("5", "environment")
    assert (lines["DATABASE_URL"]["value"], lines["DATABASE_URL"]["source"]) == ("(set)", "environment")
    assert "postgresql://tester" not in done.out


async def test_a_bad_setting_stops_the_start_with_its_name_its_value_and_what_is_allowed(
    starforge: Starforge,
) -> None:
    shown, as_json = await asyncio.gather(
        starforge("worker", PG_POOL_MAX="1"), starforge("queue", "ls", "--json", PG_POOL_MAX="many")
    )
    assert shown.code == as_json.code == 2
    assert "SF002: PG_POOL_MAX='1' is not allowed: input should be greater than or equal to 2" in shown.err
    assert "Traceback" not in shown.err
    assert as_json.document["code"] == "SF002"
    assert as_json.document["error"].startswith("PG_POOL_MAX='many' is not allowed")


async def test_db_url_gives_a_roles_address_without_a_password(invoke: Starforge) -> None:
    default = await invoke("db", "url", DATABASE_URL=NOWHERE)
    assert (default.code, default.out) == (0, "postgresql://starforge_operator@127.0.0.1:1/x\n")
    assert "hunter2" not in default.err
    owner = await invoke("db", "url", "--role", "owner", DATABASE_URL=NOWHERE)
    assert owner.out == "postgresql://starforge_owner@127.0.0.1:1/x\n"


async def test_db_grants_prints_a_script_that_postgres_takes(invoke: Starforge, database: str) -> None:
    name = database.rpartition("/")[2]
    done = await invoke("db", "grants", "--database", name)
    conn = await connect(database)
    await conn.execute(done.out)
    assert await conn.fetchval("SELECT has_database_privilege('starforge_app', $1, 'CONNECT')", name)
    await conn.close()


@covers("X-17")
async def test_a_misspelt_command_answers_a_program_with_a_document(starforge: Starforge) -> None:
    lacks, odd, unknown, told = await asyncio.gather(
        starforge("backfill", "cancel", str(UUID(int=1)), "--json"),
        starforge("backfill", "resume", "nonsense", "--json"),
        starforge("backfill", "forget", "--json"),
        starforge("ops", "list", "--json"),
    )
    for done, words in ((lacks, "Missing option '--reason'"), (odd, "JOB_ID"), (unknown, "forget")):
        assert (done.code, done.document["code"], done.err) == (2, "SF834", "")
        assert words in done.document["error"]
    assert (told.code, told.err) == (0, "")
    refused = await starforge("backfill", "resume", str(UUID(int=1)), "--json")
    assert (refused.code, refused.document["code"]) == (1, "SF530")


@covers("X-17")
async def test_an_unreachable_database_is_3_and_one_sentence_within_seconds(starforge: Starforge) -> None:
    started_s = monotonic_s()
    commands: list[tuple[str, ...]] = [("queue", "ls"), ("doctor",), ("worker",), ("server", "--port", "0")]
    done = await asyncio.gather(*(starforge(*words, DATABASE_URL=NOWHERE) for words in commands))
    assert monotonic_s() - started_s < 10
    for words, ended in zip(commands, done, strict=True):
        told = ended.err + ended.out
        assert ended.code == 3, f"{words}: {told}"
        assert "postgresql://ann@127.0.0.1:1/x cannot be reached" in told, words
        assert "hunter2" not in told, words
        assert "Traceback" not in told, words


async def test_a_database_that_does_not_answer_is_given_up_after_the_stated_time(
    starforge: Starforge,
) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"postgresql://ann@127.0.0.1:{mute.getsockname()[1]}/x"
        done = await starforge("migrate", "--json", DATABASE_URL=url, STARFORGE_PG_CONNECT_S="0.2")
    assert (done.code, done.document["code"]) == (3, "SF101")
    assert "no answer in time" in done.document["error"]


@covers("X-17")
async def test_a_refusal_is_the_one_document_on_standard_output_with_json_and_else_said_on_standard_error(
    starforge: Starforge,
) -> None:
    missing, unknown = await asyncio.gather(
        starforge("queue", "resume", "mail", "--json"), starforge("db", "url", "--role", "king")
    )
    assert (missing.code, missing.document["code"], missing.err) == (1, "SF205", "")
    assert set(missing.document) == {"code", "error", "remedy"}
    assert (unknown.code, unknown.out) == (2, "")
    assert "SF001: --role king: use one of owner, engine, app, operator" in unknown.err


@contextmanager
def nobody_reads() -> Iterator[int]:
    """A pipe whose reader has left: what `| head -1` leaves behind."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


async def test_a_reader_that_leaves_changes_neither_the_work_nor_its_exit_code(database: str) -> None:
    commands = {("ops", "list"): 0, ("ops", "list", "--json"): 0, ("queue", "resume", "mail", "--json"): 1}
    with nobody_reads() as pipe:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "starforge",
                *words,
                env={**os.environ, "DATABASE_URL": database},
                stdout=pipe,
                stderr=asyncio.subprocess.PIPE,
            )
            for words in commands
        ]
        said = await asyncio.wait_for(asyncio.gather(*(p.communicate() for p in processes)), 30)
    assert [process.returncode for process in processes] == list(commands.values())
    assert {err for _, err in said} == {b""}


def test_the_shell_completes_commands_of_both_kinds() -> None:
    completed = subprocess.run(
        [Path(sys.executable).with_name("starforge")],
        env={
            **os.environ,
            "_STARFORGE_COMPLETE": "complete_bash",
            "COMP_WORDS": "starforge queue ",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert completed.stderr == ""
    assert {"ls", "pause", "resume"} <= set(completed.stdout.split())


@covers("X-11", "Q-07")
async def test_queue_ls_counts_by_queue_type_and_status_and_names_who_paused_what(
    starforge: Starforge, invoke: Starforge, pool: Pool
) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("mail", queue="post") for _ in range(3)])
        await enqueue(conn, NewJob("mail", queue="post", delay_s=3600))
        for status in ("failed", "quarantined", "paused", "running"):
            job_id = (await enqueue(conn, NewJob("fax", queue="post"))).id
            await conn.execute("UPDATE queue_jobs SET status = $2 WHERE id = $1", job_id, status)
        await close(conn, "queue", "post", owner="ann", reason="provider [down]", minutes=30)
        worker_id = await a_worker(conn)

    asked, told = await starforge("queue", "ls", "--json"), await invoke("queue", "ls")
    assert asked.code == told.code == 0, asked.err + told.err
    document = asked.document
    ages = [queue.pop("oldest_waiting_s") for queue in document["queues"]]
    nothing = dict.fromkeys(("waiting", "delayed", "running", "paused", "failed", "quarantined"), 0)
    ones = dict.fromkeys(("failed", "quarantined", "paused", "running"), 1)
    assert document["queues"] == [
        {"queue": "post", "type": "fax", **nothing, **ones},
        {"queue": "post", "type": "mail", **nothing, "waiting": 3, "delayed": 1},
    ]
    assert ages[0] is None
    assert 0 <= ages[1] < 60
    (paused,) = document["pauses"]
    assert (paused["scope"], paused["name"], paused["owner"]) == ("queue", "post", "ann")
    assert (paused["reason"], paused["until"] > paused["since"]) == ("provider [down]", True)
    (worker,) = document["workers"]
    assert (worker["id"], worker["state"], worker["queues"]) == (str(worker_id), "running", ["default"])

    lines = told.out.splitlines()
    assert any(line.split()[:8] == ["post", "mail", "3", "1", "0", "0", "0", "0"] for line in lines)
    assert any(
        line.endswith("by ann: provider [down]") and "'post' is paused until" in line for line in lines
    )
    assert any(str(worker_id) in line for line in lines)


async def test_queue_ls_of_nothing_says_so(invoke: Starforge) -> None:
    asked, told = await invoke("queue", "ls", "--json"), await invoke("queue", "ls")
    assert asked.document == {"queues": [], "pauses": [], "workers": []}
    assert told.out.splitlines() == [
        "No queue holds a job.",
        "No worker lives: starforge worker, or starforge up.",
    ]


async def test_queue_ls_shows_a_login_that_is_bound_only_its_own_tenants_jobs(
    invoke: Starforge, server: TestServer, database: str, pool: Pool
) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t", tenant=tenant) for tenant in ("acme", "bolt", "bolt")])
    bound = server.url(database.rpartition("/")[2], user="starforge_app")
    done = await invoke("queue", "ls", "--json", DATABASE_URL=bound, TENANT_ID="bolt")
    assert [queue["waiting"] for queue in done.document["queues"]] == [2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _get(port: int, path: str = "/metrics", host: str = "127.0.0.1") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


async def test_a_workers_metrics_port_shows_what_its_children_counted(
    database: str, pool: Pool, tmp_path: Path
) -> None:
    port = _free_port()
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("counted.noop") for _ in range(20)])
    words = ("worker", "--app", "tests.cli.test_main:app", "--log-level", "warning")
    settings = {"DATABASE_URL": database, "METRICS_PORT": str(port)}
    wanted = 'job_processed_total{status="completed",type="counted.noop"} 20.0'
    async with running(*words, **settings) as worker, asyncio.timeout(30):
        page = ""
        while wanted not in page:
            assert worker.returncode is None
            await asyncio.sleep(0.05)
            _, page = await asyncio.to_thread(_get, port)
        assert "starforge_database_up 1.0" in page
        assert (await asyncio.to_thread(_get, port, "/elsewhere"))[0] == 404
        assert (await asyncio.to_thread(_get, port, "/metrics", "evil.example"))[0] == 421

        counted = tmp_path / "counter_1.db"
        counted.touch()
        second = await run(*words, **settings, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
        assert second.code == 3
        assert f"SF304: METRICS_PORT={port} cannot be used: Address already in use" in second.err
        assert counted.exists(), "a folder that the starter of the tree has made is the starter's"

        worker.send_signal(signal.SIGTERM)
        _, err = await worker.communicate()
        assert worker.returncode == 0, err.decode()
    assert (await asyncio.to_thread(_get, port))[0] == 0
