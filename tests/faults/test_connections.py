"""Rows 11, 12 and 15: connections are ended, fall silent, or are cut between a commit and its answer."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from starforge.db import notify
from starforge.db.notify import listen
from starforge.db.pool import connect
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.hint import CHANNEL
from starforge.queue.job import Key, NewJob
from tests.covers import covers
from tests.faults.app import EFFECT
from tests.faults.scene import Scene
from tests.proxy import Fault, Statement, When, cut, once

ROLES = ("starforge worker", "starforge supervisor", "starforge listener")
OURS = "FROM pg_stat_activity WHERE datname = current_database()"
END = f"SELECT count(pg_terminate_backend(pid)) {OURS} AND application_name LIKE $1 || '%'"
LISTENS = (
    f"SELECT count(*) = 1 {OURS}"
    " AND application_name = 'starforge listener' AND query LIKE '%LISTEN%' AND state = 'idle'"
)
WORKERS = "SELECT count(*) FROM workers"


@covers("G2", "G9")
async def test_ending_the_backends_of_any_role_loses_no_job_burns_no_attempt_and_costs_no_lease(
    scene: Scene, seed: int
) -> None:
    draw = random.Random(seed)
    async with scene.worker(WORKER_CONCURRENCY="4"):
        await scene.until(LISTENS)
        for _ in range(12):
            await scene.history.enqueue(scene.conn, *(NewJob("faults.nothing") for _ in range(20)))
            for role in draw.sample(ROLES, 2):
                await scene.conn.fetchval(END, role)
                await asyncio.sleep(draw.uniform(0, 0.05))
        await scene.drained()
        await scene.until(LISTENS)
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.statuses == {"completed": 240}
    assert set(verdict.attempts) == {0}
    assert await scene.conn.fetchval(WORKERS) == 1


@covers("G9")
async def test_a_listener_whose_backend_was_ended_hears_again(scene: Scene) -> None:
    """Polls are an hour apart: only a hint can start the job."""
    async with scene.worker(STARFORGE_POLL_S="60"):
        await scene.until(LISTENS)
        before = await scene.conn.fetchval(f"SELECT pid {OURS} AND application_name = 'starforge listener'")
        assert await scene.conn.fetchval(END, "starforge listener") == 1
        await scene.until(f"{LISTENS} AND pid <> $1", True, before)
        await scene.history.enqueue(scene.conn, NewJob("faults.nothing"))
        await scene.drained()


@covers("G9")
async def test_a_listener_that_hears_nothing_more_takes_another_connection(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells a client that its peer is gone: no FIN, no RST. It asks, at most 15 s apart in all."""
    assert 2 * notify.PROBE_S + notify.RECONNECT_S <= 15
    monkeypatch.setattr(notify, "PROBE_S", 0.1)
    heard: list[str] = []
    stop = asyncio.Event()
    listening = asyncio.create_task(listen(scene.proxy.url(scene.database), CHANNEL, heard.append, stop))
    async with asyncio.timeout(20):
        while heard != [""]:
            await asyncio.sleep(0.01)
        assert scene.proxy.mute("starforge listener") == 1
        await scene.conn.execute("SELECT pg_notify($1, 'missed')", CHANNEL)
        while heard != ["", ""]:  # what may have been missed is looked for after each connect
            await asyncio.sleep(0.01)
        await scene.conn.execute("SELECT pg_notify($1, 'told')", CHANNEL)
        while heard != ["", "", "told"]:
            await asyncio.sleep(0.01)
    stop.set()
    await listening


@covers("G9")
async def test_while_its_listener_is_deaf_a_worker_finds_jobs_by_polling(scene: Scene) -> None:
    async with scene.worker(STARFORGE_POLL_S="0.2"):
        await scene.until(LISTENS)
        assert scene.proxy.mute("starforge listener") == 1
        for _ in range(3):
            await scene.history.enqueue(scene.conn, NewJob("faults.nothing"))
            asked_s = scene.history.events()[-1]["at"]
            await scene.drained()
            assert scene.history.starts()[-1].at - asked_s < 2.0
        # The probe has not noticed yet: it was the poll.
        assert len(list(scene.proxy.of("starforge listener"))) == 1


@covers("G10")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_enqueue_whose_answer_was_lost_is_there_or_not_and_never_twice(
    scene: Scene, when: When
) -> None:
    conn = await connect(scene.proxy.url(scene.database), application="producer")
    scene.proxy.rule = once(lambda s: s.application == "producer" and s.commits, when, cut)
    [job_id] = await scene.history.enqueue(conn, NewJob("faults.effect"))
    assert scene.history.unknown == {job_id}
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.recovered == ({job_id} if when == "after" else set())


@covers("G10")
@pytest.mark.parametrize("bulk", [False, True], ids=["one", "bulk"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_enqueue_with_a_key_whose_answer_was_lost_is_repeated_and_is_the_first_one(
    scene: Scene, when: When, bulk: bool
) -> None:
    """Also where the first one's job has ended before it is repeated."""

    def asked() -> list[NewJob]:
        return [NewJob("faults.nothing", unique=Key(f"k{n}", within_s=600)) for n in range(1 + 4 * bulk)]

    conn = await connect(scene.proxy.url(scene.database), application="producer")
    scene.proxy.rule = once(lambda s: s.application == "producer" and s.commits, when, cut)
    first = await scene.history.enqueue(conn, *asked())
    assert scene.history.unknown == set(first)
    async with scene.worker():
        await scene.drained()
        again = await enqueue_many(scene.conn, asked()) if bulk else [await enqueue(scene.conn, asked()[0])]
        await scene.drained()
    assert [answer.new for answer in again] == [when == "before"] * len(first)
    if when == "after":
        assert [answer.id for answer in again] == first
    assert await scene.conn.fetchval("SELECT count(*) FROM job_history") == len(first)


@dataclass
class Cutter:
    """A rule that cuts a worker's connection at the first commit that was not cut before.

    A commit is told by its text and by what it commits. Those of a handler's own writes are let through.
    """

    when: When
    cut_at: set[str] = field(default_factory=set)
    armed: bool = False

    def __call__(self, statement: Statement) -> Fault | None:
        if not (self.armed and statement.commits and statement.application.startswith("starforge worker")):
            return None
        what = statement.previous if statement.text.startswith("COMMIT") else statement.text
        if what == EFFECT or what in self.cut_at:
            return None
        self.cut_at.add(what)
        self.armed = False
        return Fault(self.when, cut)


@covers("G3", "G10", "X-03")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_worker_that_loses_the_answer_to_any_commit_finishes_each_job_once(
    scene: Scene, when: When
) -> None:
    """Claims, completions, retries and dead letters."""
    scene.proxy.rule = cutter = Cutter(when)
    async with scene.worker(WORKER_CONCURRENCY="2", STARFORGE_BACKOFF_BASE_S="0.05"):
        await scene.until(LISTENS)
        rounds, cuts = 0, -1
        while len(cutter.cut_at) > cuts:
            cuts, cutter.armed = len(cutter.cut_at), True
            await scene.history.enqueue(scene.conn, NewJob("faults.effect"))
            await scene.history.enqueue(scene.conn, NewJob("faults.fail", {"times": 1}))
            await scene.history.enqueue(scene.conn, NewJob("faults.fail", {"times": 9}, max_attempts=2))
            await scene.drained()
            rounds += 1
    for verb in ("SET status = 'running'", "INSERT INTO job_history", "INSERT INTO queue_jobs_dlq"):
        assert any(verb in text for text in cutter.cut_at), verb
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.effects_doubled == set()
    assert verdict.statuses == {"completed": 2 * rounds, "failed": rounds}
    assert verdict.attempts == {0: rounds, 1: rounds, 2: rounds}
    letters = await scene.conn.fetchrow(
        "SELECT count(*) AS letters, count(DISTINCT original_job_id) AS jobs FROM queue_jobs_dlq"
    )
    assert letters is not None
    assert (letters["letters"], letters["jobs"]) == (rounds, rounds)
