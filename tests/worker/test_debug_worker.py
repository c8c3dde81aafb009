"""The debug worker: it runs the jobs that it was given, no others, whatever is paused, and ends with them."""

from __future__ import annotations

import asyncio
import signal
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.enqueue import enqueue
from starforge.queue.handler import JobType, JobTypes
from starforge.queue.job import NewJob
from starforge.queue.probe import PRIORITY, PROBE_TYPE, probe
from tests.covers import covers
from tests.queue.jobs import a_worker as registered
from tests.worker.processes import ENDED, HISTORY, MARKS, a_worker, ended, until

pytestmark = pytest.mark.once(
    "it is about processes; its statements are prepared on both versions by tests/db/test_statement.py"
)

PAUSE = (
    "INSERT INTO gates (scope, name, cause, owner, reason, expires_at)"
    " VALUES ($1, $2, 'pause', 'ann', 'a look', sf_now() + interval '1 hour')"
)


async def _enqueued(db: Connection, **changed: Any) -> UUID:
    return (await enqueue(db, NewJob("hungry.small", **changed))).id


async def _only(database: str, *ids: UUID, **environment: str) -> tuple[int | None, str]:
    words = [word for job_id in ids for word in ("--only-jobs", str(job_id))]
    async with a_worker(database, *words, level="debug", **environment) as worker:
        text = await ended(worker, 40)
        return worker.returncode, text


@covers("O-23", "O-39", "F-33")
async def test_it_runs_the_chosen_jobs_though_paused_or_not_due_and_ends_with_them(
    db: Connection, database: str
) -> None:
    chosen = [await _enqueued(db), await _enqueued(db, queue="other")]
    later = await _enqueued(db)
    await db.execute(
        "UPDATE queue_jobs SET run_after = sf_now() + interval '1 hour' WHERE id = $1", chosen[0]
    )
    await db.execute(PAUSE, "queue", "other")
    await db.execute(PAUSE, "type", "hungry.small")
    async with asyncio.timeout(60):
        code, text = await _only(database, *chosen, STARFORGE_MEMORY_LIMIT="4096MB")
    assert code == 0
    assert {row["id"] for row in await db.fetch("SELECT id FROM job_history")} == set(chosen)
    assert await db.fetchval("SELECT status FROM queue_jobs WHERE id = $1", later) == "pending"
    assert f"job {chosen[0]} (hungry.small) is completed" in text
    row = await db.fetchrow("SELECT state, queues, types, memory_limit_bytes FROM workers")
    assert row is not None
    # Nobody may count on it for a queue.
    assert tuple(row) == ("stopped", [], [], 4_096_000_000)


@covers("O-39")
async def test_a_raised_limit_lasts_no_longer_than_it_was_given_and_the_job_goes_back(
    db: Connection, database: str
) -> None:
    slow = await _enqueued(db, payload={"seconds": 60.0})
    words = ("--only-jobs", str(slow), "--memory-limit", "4096MB", "--for", "3s")
    async with a_worker(database, *words, STARFORGE_GRACE_S="1") as worker:
        text = await ended(worker, 40)
        assert worker.returncode == 0
    assert f"job {slow} (hungry.small) is pending" in text
    assert await db.fetchval("SELECT memory_limit_bytes FROM workers") == 4_096_000_000


@covers("F-33")
async def test_it_takes_nothing_from_the_other_workers_and_they_go_on(db: Connection, database: str) -> None:
    slow = await _enqueued(db, payload={"seconds": 2.0})
    words = ["--only-jobs", str(slow)]
    async with a_worker(database, *words) as debugging:
        await until(db, MARKS, 1, "start")
        for _ in range(5):
            await _enqueued(db)
        async with a_worker(database):
            await until(db, HISTORY, 6)
        await ended(debugging)
    first = await db.fetchval("SELECT worker_id FROM job_history WHERE id = $1", slow)
    assert await db.fetchval("SELECT count(*) FROM job_history WHERE worker_id = $1", first) == 1


async def test_a_chosen_job_that_fails_is_tried_again_when_its_time_has_come(
    db: Connection, database: str
) -> None:
    job_id = (await enqueue(db, NewJob("hungry.fail_first"))).id
    code, _ = await _only(database, job_id, STARFORGE_BACKOFF_BASE_S="0.5")
    assert code == 0
    assert await db.fetchval("SELECT attempts FROM job_history WHERE id = $1", job_id) == 1


async def test_what_cannot_be_run_is_said_and_refused_where_that_is_all(
    db: Connection, database: str
) -> None:
    unknown = (await enqueue(db, NewJob("nobody.knows"))).id
    large = (await enqueue(db, NewJob("process_snapshot_highmem", {"snapshot_id": str(uuid4())}))).id
    held, nowhere = await _enqueued(db), uuid4()
    await db.execute("UPDATE queue_jobs SET status = 'quarantined' WHERE id = $1", held)
    code, text = await _only(database, unknown, large, held, nowhere)
    assert code == 1
    for words in (
        f"job {unknown} has type 'nobody.knows', which this worker does not know",
        f"job {large} has type 'process_snapshot_highmem', which this worker does not know without --high",
        f"job {held} (hungry.small) is quarantined",
        f"job {nowhere} does not exist",
        "SF332",
    ):
        assert words in text.replace("\n", " ")
    assert await db.fetchval("SELECT count(*) FROM workers") == 0


async def test_it_can_be_stopped_as_any_worker(db: Connection, database: str) -> None:
    job_id = await _enqueued(db, payload={"seconds": 60.0})
    async with a_worker(database, "--only-jobs", str(job_id), STARFORGE_GRACE_S="0.1") as worker:
        await until(db, MARKS, 1, "start")
        worker.send_signal(signal.SIGTERM)
        await ended(worker)
        assert worker.returncode == 0
    row = await db.fetchrow("SELECT status, attempts FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0)


# ---- high memory


async def _nothing(*_: object) -> None:
    return None


@covers("O-45")
def test_types_that_ask_for_it_are_known_to_high_memory_workers_only() -> None:
    types = JobTypes(
        [JobType("a", _nothing), JobType("b_highmem", _nothing), JobType("c", _nothing, high_memory=True)]
    )
    assert types.known_to(high_memory=False).names() == ("a",)
    assert types.known_to(high_memory=True).names() == ("a", "b_highmem", "c")


@covers("O-45")
async def test_a_high_memory_job_waits_for_a_worker_that_was_started_for_it(
    db: Connection, database: str
) -> None:
    await enqueue(db, NewJob("hungry.feast_highmem"))
    await _enqueued(db)
    async with a_worker(database):
        await until(db, ENDED, 1, "hungry.small")
        assert await db.fetchval("SELECT status FROM queue_jobs") == "pending"
        async with a_worker(database, "--high-memory"):
            await until(db, ENDED, 1, "hungry.feast_highmem")
    worker_id = await db.fetchval("SELECT worker_id FROM job_history WHERE type = 'hungry.feast_highmem'")
    assert await db.fetchval("SELECT high_memory FROM workers WHERE id = $1", worker_id) is True


# ---- the probe


@covers("B-41")
async def test_a_probe_passes_what_waits_and_comes_back_from_the_worker_that_ran_it(
    db: Connection, database: str, pool: Pool
) -> None:
    for _ in range(30):
        await _enqueued(db, payload={"seconds": 60.0}, run_after=None, queue="slow")
    async with a_worker(database, "--queue", "default"):
        found = await probe(pool, "default", within_s=30)
    assert found.picked_up
    assert found.why == ()
    assert found.worker_id == await db.fetchval("SELECT id FROM workers")
    assert found.waited_s is not None
    assert found.waited_s >= 0
    assert await db.fetchval("SELECT count(*) FROM queue_jobs WHERE type = $1", PROBE_TYPE) == 0


async def _reasons(pool: Pool) -> str:
    found = await probe(pool, "default", within_s=0.1)
    assert not found.picked_up
    return " | ".join(found.why)


@covers("B-41")
async def test_a_probe_that_nobody_runs_says_why_and_leaves_nothing_behind(pool: Pool) -> None:
    async with pool.connection() as conn:
        assert await _reasons(pool) == "no living worker serves queue 'default'"
        await conn.execute(PAUSE, "queue", "default")
        assert (await _reasons(pool)).startswith("queue 'default' is paused by ann until ")
        await conn.execute("DELETE FROM gates")
        worker_id = await registered(conn)
        assert "1 of 1 worker of the queue does not know type starforge.probe" in await _reasons(pool)
        await conn.execute("UPDATE workers SET types = $1", [PROBE_TYPE])
        assert await _reasons(pool) == "1 living worker did not get to it in time"
        await conn.execute("UPDATE workers SET claimed_at = sf_now() - interval '10 minutes'")
        assert "gives a sign of life and does not ask for work" in await _reasons(pool)
        await conn.execute(
            "INSERT INTO queue_jobs (type, status, worker_id) VALUES ('t', 'running', $1)", worker_id
        )
        assert "runs as many jobs as it may" in await _reasons(pool)
        await conn.execute("UPDATE workers SET state = 'stopping'")
        assert "is stopping" in await _reasons(pool)
        assert await conn.fetchval("SELECT count(*) FROM queue_jobs WHERE type = $1", PROBE_TYPE) == 0
        row = await conn.fetchrow("SELECT status, priority, reason FROM job_history LIMIT 1")
    assert row is not None
    assert tuple(row) == ("cancelled", PRIORITY, "nobody ran it within 0.1 s")
