"""The log: what processes write is kept and passed on, and whoever does not read it stops nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest

from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.worker import log as logs
from starforge.worker.errors import UnknownWorkerError
from starforge.worker.lines import Allowance, Line, Reader, Splitter
from starforge.worker.log import Log
from starforge.worker.logbook import keep, lines, said, who
from starforge.worker.passage import Passage
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import proxied
from tests.queue.jobs import a_worker as registered
from tests.worker.processes import HISTORY, LINES, MARKS, a_worker, ended, until

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

# ---- lines


def test_lines_are_made_of_any_pieces_of_them() -> None:
    text = b"one\ntwo\n\nthree"
    for size in range(1, len(text) + 1):
        splitter = Splitter()
        found = [line for at in range(0, len(text), size) for line in splitter.feed(text[at : at + size])]
        assert [*found, *splitter.rest()] == [b"one", b"two", b"", b"three"]


def test_a_line_that_never_ends_is_cut_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARFORGE_LOG_LINE_BYTES_MAX", "300")
    splitter = Splitter()
    found = [line for _ in range(1000) for line in splitter.feed(b"x" * 1000)]
    assert found == [b"x" * 300 + b" [cut]"]
    assert splitter.feed(b"the end of it\nnext\n") == [b"next"]


JOB = UUID("0199a3f2-7c00-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("line", "level", "job_id"),
    [
        (json.dumps({"event": "e", "level": "warning", "job_id": str(JOB)}), "warning", JOB),
        (json.dumps({"event": "e", "level": "debug"}), "debug", None),
        (json.dumps({"event": "e", "level": "error", "job_id": "no id"}), "output", None),
        (json.dumps({"somebody": "else's"}), "output", None),
        ("{not json", "output", None),
        ("words", "output", None),
        ("Fatal Python error: Segmentation fault", "error", None),
    ],
)
def test_a_line_says_its_level_and_job_or_is_output(line: str, level: str, job_id: UUID | None) -> None:
    assert Reader().read(line.encode()) == (level, job_id)


def test_all_lines_of_a_traceback_are_errors_and_what_follows_is_not() -> None:
    text = (
        "before\nTraceback (most recent call last):\n  File 'a'\n    raise\nValueError: a\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File 'b'\nKeyError: 'b'\nafter"
    )
    reader = Reader()
    levels = [reader.read(line.encode())[0] for line in text.split("\n")]
    assert levels[0] == levels[-1] == "output"
    first_end = levels.index("error") + 3
    assert levels[1 : first_end + 1] == ["error"] * 4
    assert levels[-4:-1] == ["error"] * 3


# ---- a reader that does not read


@contextmanager
def _unread() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)


@covers("FAULTS 22")
async def test_nobody_waits_for_a_reader_of_standard_error_and_the_oldest_lines_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("starforge.worker.passage.BYTES_MAX", 50_000)
    with _unread() as (reading, writing):
        passage = Passage(writing, for_terminal=False)
        for number in range(20_000):
            passage.take(f"line {number:06}".encode())
        read = bytearray()

        def drain() -> None:
            while piece := os.read(reading, 65536):
                read.extend(piece)

        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        await asyncio.to_thread(passage.close, 10)
        os.close(writing)
        reader.join(10)
    shown = read.decode().splitlines()
    assert shown[-1] == "line 019999"
    dropped = [json.loads(line)["lines"] for line in shown if line.startswith("{")]
    assert sum(dropped) + len(shown) - len(dropped) == 20_000
    assert sum(dropped) > 1000


async def test_the_database_is_told_in_batches_and_what_it_does_not_take_waits_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "PENDING_MAX", 100)
    monkeypatch.setattr(logs, "BATCH_S", 0.01)
    monkeypatch.setattr(logs, "RETRY_S", 0.01)
    away, stop = [True], asyncio.Event()
    written: list[Line] = []

    async def write(batch: Sequence[Line]) -> None:
        if away[0]:
            raise OSError("away")
        written.extend(batch)

    nowhere = os.open(os.devnull, os.O_WRONLY)
    log = Log(passage=Passage(nowhere, for_terminal=False))
    log.begin(uuid4())
    writer = asyncio.create_task(log.run(write, stop))
    for number in range(250):
        log.take(f"{number}".encode(), Reader())
        if number % 50 == 0:
            await asyncio.sleep(0.02)
    away[0] = False
    async with asyncio.timeout(5):
        while not any(line.text == "249" for line in written):
            await asyncio.sleep(0.01)
    stop.set()
    await writer
    log.take(b"one more", Reader())
    await log.end(write, 1)
    os.close(nowhere)
    assert len(written) <= 102
    assert written[-1].text == "one more"
    dropped = [json.loads(line.text)["lines"] for line in written if "log.dropped" in line.text]
    assert sum(dropped) + len(written) - len(dropped) == 251


def test_a_worker_keeps_so_many_lines_a_minute_and_room_for_errors_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STARFORGE_LOG_LINES_PER_MINUTE", "100")
    allowance = Allowance()
    assert sum(allowance.allows("output") for _ in range(1000)) in range(100, 103)
    assert sum(allowance.allows("error") for _ in range(1000)) in range(20, 23)


# ---- a worker as a process


@covers("F-13", "B-34", "J-11")
async def test_what_a_job_says_by_any_way_is_kept_with_its_level_and_job(
    db: Connection, database: str
) -> None:
    job_id = (await enqueue(db, NewJob("hungry.shout"))).id
    async with a_worker(database) as worker:
        await until(db, HISTORY, 1)
        await until(db, LINES, True, "%ValueError: burnt%")
        worker.send_signal(signal.SIGTERM)
        passed = await ended(worker)
    worker_id = await db.fetchval("SELECT id FROM workers")
    found = await lines(db, worker_id=worker_id)
    levels = {line.line: line.level for line in found if not line.line.startswith("{")}
    assert levels["plain words"] == levels["afterwards"] == "output"
    assert levels["ValueError: burnt"] == levels["  File 'x'"] == "error"
    assert "half a line, \ufffd and \ufffd\ufffd\ufffd" in levels
    about = await lines(db, job_id=job_id)
    assert [said(line.line).split()[0] for line in about] == ["hungry.said", "hungry.threaded"]
    assert [line.level for line in about] == ["warning", "info"]
    assert any("child.ready" in line.line for line in found)
    assert [line.id for line in found] == sorted(line.id for line in found)
    assert "plain words\n" in passed


async def test_the_last_words_of_a_child_that_dies_are_kept(db: Connection, database: str) -> None:
    await enqueue(db, NewJob("hungry.die"))
    async with a_worker(database):
        await until(db, LINES, True, "my last words")
        await until(db, LINES, True, '%"child.died"%')
    first = await db.fetchval("SELECT worker_id FROM marks LIMIT 1")
    assert await db.fetchval("SELECT worker_id FROM log_lines WHERE line = 'my last words' LIMIT 1") == first
    # The one that took its place names it.
    assert await db.fetchval("SELECT count(*) FROM workers WHERE previous_id = $1", first) == 1


@covers("FAULTS 22")
async def test_a_worker_whose_standard_error_nobody_reads_goes_on_beating_and_working(
    db: Connection, database: str
) -> None:
    """Far more is said than a pipe holds; every job ends, and the lease holds."""
    for _ in range(20):
        await enqueue(db, NewJob("hungry.talk", {"text": "x" * 400, "times": 2000}))
    async with a_worker(database, STARFORGE_LEASE_S="1.5", STARFORGE_LOG_LINES_PER_MINUTE="500"):
        await until(db, MARKS, 20, "end", within_s=60)
        await until(db, HISTORY, 20)
        await until(db, "SELECT heartbeat_at - started_at > interval '2.5 s' FROM workers", True)
    assert await db.fetchval("SELECT array_agg(state) FROM workers") == ["running"]
    assert await db.fetchval("SELECT count(*) FROM log_lines") < 800
    assert await db.fetchval(LINES, '%"log.dropped"%') is True


async def test_lines_of_an_outage_are_kept_when_the_database_is_back(
    db: Connection, database: str, server: TestServer
) -> None:
    async with proxied(server.port) as proxy, a_worker(proxy.url(database), STARFORGE_LEASE_S="3"):
        await until(db, LINES, True, "%child.ready%")
        await enqueue(db, NewJob("hungry.late", {"seconds": 1.0, "text": "said meanwhile"}))
        await until(db, "SELECT count(*) FROM queue_jobs WHERE status = 'running'", 1)
        proxy.mute()
        await until(db, LINES, True, "said meanwhile", within_s=60)


# ---- reading


async def test_a_worker_is_named_by_its_id_its_start_or_its_place(conn: Connection) -> None:
    worker_id = await registered(conn)
    host, pid = await conn.fetchrow("SELECT host, pid FROM workers") or ("", 0)
    name = str(worker_id)
    for word in (name, name.upper(), name[:30], f"{host}:{pid}", f" {name} "):
        assert (await who(conn, word)).id == worker_id
    other = await registered(conn)
    # Ids that were made at about the same time begin alike.
    for word in ("nobody", "%", f"{host}:1", name[:2]):
        with pytest.raises(UnknownWorkerError):
            await who(conn, word)
    assert (await who(conn, f"{host}:{pid}")).id == other  # the newest of one process


async def test_lines_are_found_by_age_level_and_what_came_since(conn: Connection) -> None:
    worker_id = await registered(conn)
    now_s = monotonic_s()
    said_before = [
        Line(now_s - age_s, level, None, text, worker_id)
        for age_s, level, text in [(7200, "error", "old"), (60, "info", "newer"), (1, "error", "newest")]
    ]
    await keep(conn, said_before)
    assert [line.line for line in await lines(conn, worker_id=worker_id)] == ["old", "newer", "newest"]
    assert [line.line for line in await lines(conn, since_s=1800)] == ["newer", "newest"]
    found = await lines(conn, level="error", limit=1)
    assert [line.line for line in found] == ["newest"]
    assert await lines(conn, after=found[0].id) == []
