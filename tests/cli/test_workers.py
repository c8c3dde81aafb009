"""The commands for workers: who works, what they said, and whether a queue is served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, connect
from starforge.worker.lines import Line
from starforge.worker.logbook import keep
from starforge.worker.registry import Registration, Vitals, extend, register
from tests.cli.test_main import Starforge, invoke, running, starforge
from tests.covers import covers
from tests.queue.jobs import a_worker

__all__ = ["invoke", "starforge"]

FAILED = "job.failed type=t error=no 7"
JOB = UUID("01a201b6-86d4-7dae-9576-68c4f82f1d85")


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    conn = await connect(database)
    yield conn
    await conn.close()


@pytest.fixture
async def worker_id(db: Connection) -> UUID:
    """A worker that has said four things, one of them an hour ago."""
    registered = await a_worker(db)
    now_s = monotonic_s()
    said = [
        (3600.0, "info", None, '{"event": "long.ago", "level": "info"}'),
        (60.0, "debug", None, '{"event": "small.talk", "level": "debug"}'),
        (30.0, "output", None, "the job printed this"),
        (1.0, "error", JOB, '{"event": "job.failed", "type": "t", "error": "no 7", "level": "error"}'),
    ]
    lines = [Line(now_s - age_s, level, job, text, registered) for age_s, level, job, text in said]
    await keep(db, lines)
    return registered


def _told(text: str) -> list[str]:
    """What stands after time and level."""
    return [line[29:] for line in text.splitlines()]


@covers("F-13")
async def test_the_logs_of_a_worker_are_shown_as_people_read_them(worker_id: UUID, invoke: Starforge) -> None:
    done = await invoke("worker", "logs", str(worker_id)[:30])
    assert done.code == 0
    assert _told(done.out) == [
        "long.ago",
        "small.talk",
        "the job printed this",
        FAILED,
    ]
    recent = await invoke("worker", "logs", str(worker_id), "--since", "30m", "--level", "info")
    assert _told(recent.out) == ["the job printed this", FAILED]
    last = await invoke("worker", "logs", str(worker_id), "--lines", "1", "--json")
    assert [(line["level"], line["job_id"]) for line in last.document] == [("error", str(JOB))]


@covers("B-34")
async def test_the_lines_about_one_job_need_no_worker(worker_id: UUID, invoke: Starforge) -> None:
    done = await invoke("worker", "logs", "--job", str(JOB))
    assert _told(done.out) == [FAILED]


@covers("F-13")
async def test_the_worker_before_is_found_by_the_one_that_took_its_place(
    db: Connection, worker_id: UUID, invoke: Starforge, starforge: Starforge
) -> None:
    successor = await register(db, Registration(("default",), (), 1), lease_s=30, previous_id=worker_id)
    done = await invoke("worker", "logs", str(successor), "--previous", "--level", "error")
    assert _told(done.out) == [FAILED]
    first = await starforge("worker", "logs", str(worker_id), "--previous")
    assert first.code == 1
    assert "took nobody's place" in first.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nobody"], 1, "SF331"),
        ([], 2, "name a worker"),
        (["x", "--level", "loud"], 2, "--level loud"),
        (["x", "--since", "soon"], 2, "'soon' is no time"),
        (["x", "--since", "99999999d"], 2, "longer than a hundred years"),
        (["x", "--follow", "--json"], 2, "leave out --follow"),
    ],
)
@covers("X-17")
async def test_what_logs_cannot_answer_is_refused_in_one_sentence(
    starforge: Starforge, words: list[str], code: int, told: str
) -> None:
    done = await starforge("worker", "logs", *words)
    assert (done.code, done.out if "--json" not in words else "") == (code, "")
    assert told in done.err + done.out


async def test_following_shows_lines_as_they_come(db: Connection, database: str, worker_id: UUID) -> None:
    async with running("worker", "logs", str(worker_id), "--follow", DATABASE_URL=database) as process:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            shown = [await process.stdout.readline() for _ in range(4)]
            await keep(db, [Line(monotonic_s(), "output", None, "and this", worker_id)])
            shown.append(await process.stdout.readline())
    assert _told(b"".join(shown).decode())[-1] == "and this"


@covers("J-11")
async def test_errors_of_all_workers_are_grouped_without_their_numbers(
    db: Connection, worker_id: UUID, invoke: Starforge
) -> None:
    other = await a_worker(db)
    said = [
        f'{{"event": "job.failed", "type": "t", "error": "no {n}", "level": "error"}}' for n in range(8, 12)
    ]
    words = ["PANIC at the disco", "a failed attempt", "failedness is no word", "all is well"]
    lines = [Line(monotonic_s(), "output", None, text, other) for text in words]
    await keep(db, [Line(monotonic_s(), "error", None, text, other) for text in said] + lines)
    found = (await invoke("worker", "errors", "--json")).document
    assert [(alike["count"], alike["workers"], alike["said"]) for alike in found[:1]] == [
        (5, 2, "job.failed t no #")
    ]
    assert {alike["said"] for alike in found[1:]} >= {"PANIC at the disco", "a failed attempt"}
    assert "all is well" not in {alike["said"] for alike in found}
    shown = await invoke("worker", "errors")
    assert "job.failed t no #" in shown.out


@covers("O-14", "O-49", "B-39")
async def test_the_list_shows_what_a_worker_uses_and_when_it_asked_and_how_the_dead_ended(
    db: Connection, worker_id: UUID, invoke: Starforge
) -> None:
    vitals = Vitals(rss_bytes=123_000_000, asked_age_s=2.0, finished=77)
    assert await extend(db, worker_id, lease_s=30, vitals=vitals)
    await db.execute("UPDATE workers SET memory_limit_bytes = 500000000")
    dead = await a_worker(db)
    await db.execute(
        "UPDATE workers SET state = 'dead', stopped_at = sf_now(), stop_reason = 'its process is gone'"
        " WHERE id = $1",
        dead,
    )
    done = await invoke("worker", "ls")
    living, gone = done.out.splitlines()[1:]
    for word in (str(worker_id), "running", "77", "123 of 500 MB", "2 s before"):
        assert word in living
    assert "dead" in gone
    assert "its process is gone" in gone
    [one, _] = (await invoke("worker", "ls", "--json")).document
    assert (one["jobs_finished"], one["lives"], one["stale"]) == (77, True, False)
    await db.execute(
        "UPDATE workers SET claimed_at = heartbeat_at - interval '1 hour' WHERE id = $1", worker_id
    )
    assert "does not ask for work" in (await invoke("worker", "ls")).out


@covers("B-41")
async def test_a_queue_that_nobody_serves_fails_its_probe_with_the_reason(invoke: Starforge) -> None:
    done = await invoke("queue", "probe", "mail", "--within", "0.1s")
    assert done.code == 1
    assert "no living worker serves queue 'mail'" in done.out
    as_json = await invoke("queue", "probe", "mail", "--within", "0.1s", "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out)["picked_up"] is False


async def test_a_memory_limit_that_is_no_size_is_refused_before_anything_starts(starforge: Starforge) -> None:
    done = await starforge("worker", "--memory-limit", "plenty")
    assert (done.code, done.out) == (2, "")
    assert "write 4096MB, 2GiB or 512Mi" in done.err
