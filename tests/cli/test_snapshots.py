"""`starforge snapshot ingest` as a user runs it: what is said is true, whatever ends it."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from starforge.cli.snapshots import _offers
from starforge.db.migrate import migrate
from starforge.db.pool import Connection, Pool, connect
from starforge.dev.seed import write_heroes
from starforge.etl.ingest.receive import BATCH_OFFERS_MAX
from starforge.ops.perform import perform
from tests.covers import covers
from tests.postgres import TestServer

pytestmark = pytest.mark.once(
    "files, streams and signals; what is stored: tests/etl/ingest/test_receive.py on both versions"
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "fhir"


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    """A connection to the test's own database, outside any transaction."""
    opened = await connect(database)
    yield opened
    await opened.close()


async def started(database: str, *words: str) -> Process:
    """Start an ingest that reads its standard input through a pipe."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", "snapshot", "ingest", *words,
        env={**os.environ, "DATABASE_URL": database}, stdin=PIPE, stdout=PIPE, stderr=PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs us may ignore it
    )  # fmt: skip


async def ended(process: Process, data: bytes | None = None) -> tuple[int | None, str, str]:
    """Return its exit code, what it wrote on standard output, and what on standard error."""
    out, err = await asyncio.wait_for(process.communicate(data), 30)
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


async def ingest(database: str, *words: object, data: bytes | None = None) -> tuple[int | None, str, str]:
    return await ended(await started(database, *map(str, words)), data)


async def figures(database: str, *words: object, data: bytes | None = None) -> dict[str, Any]:
    """Run with --json; return the document and the exit code, without the fates that nothing met."""
    code, out, _ = await ingest(database, "--json", *words, data=data)
    document: dict[str, Any] = json.loads(out)
    return {name: value for name, value in document.items() if value not in (0, [])} | {"exit": code}


def hero(number: int) -> bytes:
    return b'{"NameCode": "A_%d"}' % number


def lines(first: int, last: int) -> bytes:
    return b"".join(hero(number) + b"\n" for number in range(first, last))


# ---- forms


async def test_json_gzip_ndjson_and_standard_input_are_the_same_snapshots(
    database: str, tmp_path: Path
) -> None:
    for name, data in (("a.json", hero(1)), ("b.json.gz", gzip.compress(hero(2), mtime=0))):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "c.NDJSON").write_bytes(lines(1, 5))
    found = await figures(database, tmp_path)
    assert found == {
        "offered": 6, "accepted": 4, "duplicate": 2, "bytes": 6 * len(hero(1)), "complete": True, "exit": 0,
    }  # fmt: skip
    (tmp_path / "lines.json").write_bytes(lines(1, 7))
    found = await figures(database, "--ndjson", tmp_path / "lines.json")
    assert (found["accepted"], found["duplicate"]) == (2, 4)
    for data in (lines(5, 9), gzip.compress(lines(5, 9))):
        found = await figures(database, "--ndjson", "-", data=data)
        assert found["offered"] == 4
    assert found["duplicate"] == 4
    assert (await figures(database, "-", data=gzip.compress(hero(8))))["duplicate"] == 1
    found = await figures(database, tmp_path / "lines.json")
    assert found["rejects"][0]["reason"] == "trailing characters"


async def test_generated_heroes_with_faults_are_taken_as_the_generator_expects(
    database: str, tmp_path: Path
) -> None:
    summary = write_heroes(tmp_path, count=80, size_mb=0.02, seed=11, faults=True)
    found = await figures(database, tmp_path)
    expected = summary.expected
    assert found["offered"] == 80
    assert found["malformed"] == expected["malformed"] == len(found["rejects"])
    assert found["oversized"] == expected["oversized"]
    assert found["accepted"] == expected["accepted"] + expected["mapping_error"]
    assert found["exit"] == 1
    again = await figures(database, tmp_path)
    assert again["duplicate"] == found["accepted"] + found["oversized"]


@pytest.mark.shared
async def test_the_twelve_bundles_of_the_example_are_taken_once(
    database: str, conn: Connection, shared: Path
) -> None:
    words = ("--app", "examples.fhir.app:app", "--source", "fhir", shared / "data" / "fhir-r4")
    assert (await figures(database, *words))["accepted"] == 12
    assert (await figures(database, *words))["duplicate"] == 12
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 12


# ---- what is wrong with it


async def test_what_cannot_be_taken_is_told_by_name_and_the_rest_is_taken(
    database: str, conn: Connection, tmp_path: Path
) -> None:
    """Names are shown as text that steers no terminal; no markup in them is obeyed."""
    files = {
        "cut.json.gz": gzip.compress(hero(1) * 9, mtime=0)[:20],
        "empty.json": b"",
        "esc\x1b[31m[bold].json": b"{bad",
        os.fsdecode(b"latin\xe9.json"): b"{bad",
        "large.json": b'{"NameCode": "L", "Log": "%b"}' % (b"x" * 5_500_000),
        "huge.json": b'"' + b"x" * 65_000_000,
        "good.json": hero(1),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / name for name in (*files, "folder", "missing.json", "n" * 300)]
    code, out, err = await ingest(database, *paths)
    told = out.replace(f"{tmp_path}/", "").splitlines()
    assert (code, err) == (1, "")
    assert told == [
        "10 offered: 1 accepted, 1 oversized, 5 malformed, 3 unreadable",
        "  cut.json.gz: malformed at line 1, column 21 (byte 20): the gzip stream is truncated"
        " (kept in quarantine)",
        "  empty.json: malformed at line 1, column 1 (byte 0): the document ends too early"
        " (kept in quarantine)",
        "  esc\ufffd[31m[bold].json: malformed at line 1, column 2 (byte 1): object keys must be strings"
        " (kept in quarantine)",
        "  latin\ufffd.json: malformed at line 1, column 2 (byte 1): object keys must be strings"
        " (kept in quarantine)",
        "  huge.json: malformed at line 1, column 65000002 (byte 65000001): the document ends too early"
        " (kept in quarantine)",
        "  folder: holds no file named *.json, *.ndjson, *.jsonl (or with .gz, .zst) (nothing to keep)",
        "  missing.json: No such file or directory (nothing to keep)",
        f"  {'n' * 300}: File name too long (nothing to keep)",
        "oversized snapshots are stored and held back until they are released",
    ]
    assert await conn.fetchval("SELECT count(*) FROM snapshot_quarantine WHERE bytes IS NOT NULL") == 3
    found = await figures(database, tmp_path / os.fsdecode(b"latin\xe9.json"))
    assert found["rejects"][0]["name"].endswith("latin\ufffd.json")


async def test_a_failed_snapshot_that_is_offered_again_is_said_to_be_tried_anew(
    database: str, conn: Connection
) -> None:
    await ingest(database, "-", data=hero(1))
    await conn.execute("UPDATE hero_snapshots SET status = 'failed'")
    code, out, _ = await ingest(database, "-", data=hero(1))
    assert (code, out.splitlines()) == (
        0,
        ["1 offered: 1 retried", "retried snapshots were known and had failed; they have a new job"],
    )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--source", "shop", "-"), 1, "SF418: no mapping for source 'shop'; known: hero"),
        (("--captured-at", "yesterday", "-"), 2, "Invalid value for '--captured-at'"),
        ((), 2, "Missing argument"),
    ],
)
async def test_a_wrong_command_line_is_told(
    database: str, words: tuple[str, ...], code: int, told: str
) -> None:
    ended_with, _, err = await ingest(database, *words)
    assert ended_with == code
    assert told in " ".join(err.replace("│", " ").split())


async def test_without_a_schema_it_is_said_what_to_do(database: str, conn: Connection) -> None:
    await conn.execute("DROP TABLE schema_migrations, hero_snapshots CASCADE")
    code, _, err = await ingest(database, "-", data=hero(1))
    assert code != 0
    assert "starforge migrate" in err


# ---- ended early


async def first_batch(process: Process, conn: Connection) -> None:
    """Offer a batch and a little more, and wait until the batch is stored."""
    assert process.stdin is not None
    process.stdin.write(lines(0, BATCH_OFFERS_MAX + 5))
    await process.stdin.drain()
    async with asyncio.timeout(20):
        while await conn.fetchval("SELECT count(*) FROM hero_snapshots") < BATCH_OFFERS_MAX:
            await asyncio.sleep(0.01)


REST = lines(BATCH_OFFERS_MAX + 5, 2 * BATCH_OFFERS_MAX)
CUT_SHORT = "ended early: what is counted here is taken; run the same command again for the rest"


async def all_of_it(database: str, conn: Connection) -> None:
    """Run the same command again to its end: nothing is missing and nothing is there twice."""
    found = await figures(database, "--ndjson", "-", data=lines(0, 2 * BATCH_OFFERS_MAX))
    assert (found["duplicate"], found["accepted"]) == (BATCH_OFFERS_MAX, BATCH_OFFERS_MAX)
    for table in ("hero_snapshots", "snapshot_captures", "queue_jobs"):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 2 * BATCH_OFFERS_MAX


async def test_ctrl_c_ends_it_at_once_and_what_it_reports_is_true(database: str, conn: Connection) -> None:
    """Also while it waits for its standard input."""
    process = await started(database, "--ndjson", "-")
    await first_batch(process, conn)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 5) == 130
    _, out, err = await ended(process)
    assert out == f"{BATCH_OFFERS_MAX} offered: {BATCH_OFFERS_MAX} accepted\n"
    assert CUT_SHORT in err
    await all_of_it(database, conn)


async def test_after_a_kill_the_same_command_completes_the_work(database: str, conn: Connection) -> None:
    process = await started(database, "--ndjson", "-")
    await first_batch(process, conn)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    await all_of_it(database, conn)


@covers("F-29")
async def test_a_pause_in_the_middle_is_told_with_what_was_taken_before(
    database: str, conn: Connection, pool: Pool
) -> None:
    process = await started(database, "--ndjson", "--json", "-")
    await first_batch(process, conn)
    who: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
    await perform(pool, "ingest pause", {"reason": "storm"}, **who)
    code, out, _ = await ended(process, REST)
    told = json.loads(out)
    assert (code, told["code"], told["complete"]) == (1, "SF410", False)
    assert told["accepted"] == told["offered"] == BATCH_OFFERS_MAX
    assert await conn.fetchval("SELECT count(*) FROM hero_snapshots") == BATCH_OFFERS_MAX
    code, out, err = await ingest(database, "-", data=hero(1))
    assert (code, out) == (1, "")
    assert err.startswith("SF410: ingestion is paused: storm")
    await perform(pool, "ingest resume", {}, **who)
    await all_of_it(database, conn)


async def said(database: str, *words: str) -> tuple[int | None, str]:
    """Run another command; return its exit code and what it wrote on standard output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", *words,
        env={**os.environ, "DATABASE_URL": database}, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    code, out, _ = await ended(process)
    return code, out


@covers("F-37")
async def test_a_source_is_paused_shown_and_resumed_and_another_is_taken_meanwhile(
    database: str, conn: Connection
) -> None:
    code, out = await said(database, "source", "pause", "hero", "--reason", "upstream changed", "--plan")
    assert code == 0
    assert await conn.fetchval("SELECT data -> 'sources' FROM feature_flags") is None
    code, out = await said(database, "source", "pause", "hero", "--reason", "upstream changed")
    assert code == 0
    assert "ingestion of source 'hero' is paused: upstream changed" in " ".join(out.split())
    code, out, err = await ingest(database, "-", data=hero(1))
    assert (code, out) == (1, "")
    assert err.startswith("SF413: ingestion of source 'hero' is paused: upstream changed")
    code, out, _ = await ingest(
        database, "--app", "examples.fhir.app:app", "--source", "fhir", "-", data=hero(1)
    )
    assert (code, "1 accepted" in out) == (0, True)
    shown = json.loads((await said(database, "source", "show", "hero", "--json"))[1])["paused"]
    assert (shown["reason"], shown["all_sources"]) == ("upstream changed", False)
    out = " ".join((await said(database, "source", "show", "hero"))[1].split())
    assert "Ingestion of source 'hero' is paused until" in out
    assert "starforge source resume hero" in out
    code, out = await said(database, "source", "resume", "hero")
    assert code == 0
    assert (await figures(database, "-", data=hero(1)))["accepted"] == 1


@covers("G1")
@pytest.mark.db
async def test_a_database_that_stops_in_the_middle_is_told_and_nothing_is_half_taken() -> None:
    """The second batch hangs in its transaction when the server goes."""
    version = os.environ.get("STARFORGE_TEST_POSTGRES", "18")
    server = TestServer(version, options={"fsync": "on", "synchronous_commit": "on"})
    try:
        conn = await connect(server.url())
        await migrate(conn)
        process = await started(server.url(), "--ndjson", "-")
        await first_batch(process, conn)
        await conn.execute("BEGIN; LOCK TABLE snapshot_captures IN EXCLUSIVE MODE")
        assert process.stdin is not None
        process.stdin.write(REST)
        process.stdin.close()
        async with asyncio.timeout(10):
            while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
        server._run("pg_ctl", "-D", str(server.data), "-m", "immediate", "-w", "stop")
        code, out, err = await ended(process)
        assert (code, out) == (3, f"{BATCH_OFFERS_MAX} offered: {BATCH_OFFERS_MAX} accepted\n")
        assert CUT_SHORT in err
        assert "SF101: the connection to the database was lost" in err
        server._run("pg_ctl", "-D", str(server.data), "-l", str(server.folder / "log"), "-w", "start")
        conn.terminate()
        conn = await connect(server.url())
        await all_of_it(server.url(), conn)
        await conn.close()
    finally:
        server.stop()


# ---- the progress bar


def test_the_bar_has_an_end_only_where_each_path_is_one_offer(tmp_path: Path) -> None:
    assert _offers(["a.json", "b.json.gz"], ndjson=False) == 2
    assert _offers(["a.json"], ndjson=True) is None
    for path in ("-", "a.NDJSON", "a.jsonl.gz", str(tmp_path)):
        assert _offers(["a.json", path], ndjson=False) is None
