"""Kills: who is blamed, who is not, and what a death costs the jobs of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.enqueue import enqueue
from starforge.queue.job import LeasedJob, NewJob
from starforge.queue.kill import Death, blame, kill, prune_kills, told, untold
from starforge.queue.reclaim import reclaim
from starforge.queue.retry import give_back, retry
from starforge.worker.burial import Ending, bury
from starforge.worker.registry import stop
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed

Travel = Callable[..., Awaitable[None]]
DEATH = Death("signal", "was killed by signal 11 (SIGSEGV)", {"exit_status": -11})
JOB = "SELECT status, attempts, kills, suspect, reclaims, worker_id FROM queue_jobs WHERE id = $1"


async def some(conn: Connection, n: int, **options: Any) -> tuple[UUID, list[LeasedJob]]:
    """Let a worker claim so many jobs."""
    for _ in range(n):
        await enqueue(conn, NewJob("t", {"n": 1}, **options))
    worker_id = await a_worker(conn)
    return worker_id, await claimed(conn, worker_id)


async def states(conn: Connection, jobs: list[LeasedJob]) -> list[tuple[Any, ...]]:
    rows = [await conn.fetchrow(JOB, job.id) for job in jobs]
    return [tuple(row) for row in rows if row is not None]


INNOCENT = ("pending", 0, 0, False, 0, None)


@covers("O-01", "O-16", "O-18")
async def test_one_that_ran_is_guilty_and_the_others_are_as_they_were(conn: Connection) -> None:
    worker_id, jobs = await some(conn, 4, max_attempts=1)
    blamed = await blame(conn, worker_id, DEATH, {jobs[1].id: 0.5})
    assert (blamed.jobs, blamed.guilty, blamed.suspects, blamed.locked) == (4, 1, 0, 0)
    assert await states(conn, jobs) == [INNOCENT, ("pending", 0, 1, False, 0, None), INNOCENT, INNOCENT]
    row = await conn.fetchrow("SELECT * FROM job_kills")
    assert row is not None
    assert (row["job_id"], row["lease_epoch"], row["verdict"]) == (jobs[1].id, jobs[1].lease_epoch, "guilty")
    assert row["evidence"]["ran_s"] == 0.5
    assert row["evidence"]["exit"] == DEATH.words


@covers("O-18")
async def test_several_that_ran_are_suspects_and_none_is_blamed(conn: Connection) -> None:
    worker_id, jobs = await some(conn, 3)
    await blame(conn, worker_id, DEATH, {jobs[0].id: 0.1, jobs[2].id: 0.2})
    suspect = ("pending", 0, 0, True, 0, None)
    assert await states(conn, jobs) == [suspect, INNOCENT, suspect]
    again = {job.id: job.alone for job in await claimed(conn, await a_worker(conn))}
    assert again == {jobs[0].id: True, jobs[1].id: False, jobs[2].id: True}


async def test_one_left_of_several_that_ran_is_not_blamed_for_them(conn: Connection) -> None:
    """The other was taken away by hand while it ran."""
    worker_id, jobs = await some(conn, 2)
    await conn.execute("DELETE FROM queue_jobs WHERE id = $1", jobs[0].id)
    blamed = await blame(conn, worker_id, DEATH, {job.id: 0.1 for job in jobs})
    assert (blamed.guilty, blamed.suspects) == (0, 1)


@covers("O-29", "G6")
async def test_the_third_kill_quarantines_with_its_evidence(conn: Connection, travel: Travel) -> None:
    await enqueue(conn, NewJob("t"))
    for kills in range(1, 4):
        worker_id = await a_worker(conn, lease_s=1e6)
        [job] = await claimed(conn, worker_id)
        assert (job.kills, job.alone) == (kills - 1, kills > 1)
        await blame(conn, worker_id, DEATH, {job.id: 0.1})
        await travel(conn, minutes=5)
    row = await conn.fetchrow("SELECT status, kills, attempts, last_error FROM queue_jobs")
    assert row is not None
    assert tuple(row)[:3] == ("quarantined", 3, 0)
    assert row["last_error"]["exit_status"] == -11
    assert row["last_error"]["reason"].startswith("it killed 3 of at most 3 worker processes")
    # Whoever releases it does so at its own risk: the next one is the last again.
    await conn.execute("UPDATE queue_jobs SET status = 'pending'")
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    assert await kill(conn, job, DEATH, worker_id=worker_id)
    assert await conn.fetchval("SELECT status FROM queue_jobs") == "quarantined"


async def test_a_job_waits_longer_after_each_kill_but_the_first_that_was_inferred(conn: Connection) -> None:
    worker_id, [job] = await some(conn, 1)
    await blame(conn, worker_id, DEATH, {job.id: 0.1})
    assert await conn.fetchval("SELECT run_after <= sf_now() FROM queue_jobs")
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    await kill(conn, job, DEATH, worker_id=worker_id)
    assert await conn.fetchval("SELECT run_after > sf_now() FROM queue_jobs")


@covers("D-12", "G3")
async def test_a_kill_is_fenced_like_every_other_end(conn: Connection) -> None:
    worker_id, [job] = await some(conn, 1)
    await give_back(conn, [job], worker_id=worker_id)
    [again] = await claimed(conn, worker_id)
    assert not await kill(conn, job, DEATH, worker_id=worker_id)
    assert not await kill(conn, again, DEATH, worker_id=await a_worker(conn))
    assert await kill(conn, again, DEATH, worker_id=worker_id)
    assert not await kill(conn, again, DEATH, worker_id=worker_id)
    assert await conn.fetchval("SELECT count(*) FROM job_kills") == 1


async def test_where_nobody_knows_what_ran_the_second_time_makes_it_run_alone(conn: Connection) -> None:
    """Its container is gone, and its disk: no attempt is burnt and nobody is blamed."""
    await enqueue(conn, NewJob("t"))
    for reclaims in (1, 2):
        worker_id = await a_worker(conn)
        [job] = await claimed(conn, worker_id)
        assert not job.alone
        await bury(conn, worker_id, Ending("unknown", "is gone", running=None))
        assert await states(conn, [job]) == [("pending", 0, 0, False, reclaims, None)]
    [job] = await claimed(conn, await a_worker(conn))
    assert job.alone
    assert await conn.fetchval("SELECT count(*) FROM job_kills") == 0


async def test_a_lease_that_ran_out_is_counted_and_one_that_ended_in_order_is_not(
    conn: Connection, travel: Travel
) -> None:
    worker_id, jobs = await some(conn, 1)
    await stop(conn, worker_id, ended=True, reason="told to")
    assert await reclaim(conn) == 1
    assert await states(conn, jobs) == [INNOCENT]
    await claimed(conn, await a_worker(conn))
    await travel(conn, minutes=5)
    assert await reclaim(conn) == 1
    assert await states(conn, jobs) == [("pending", 0, 0, False, 1, None)]


async def test_a_suspect_whose_attempt_fails_without_killing_is_acquitted(conn: Connection) -> None:
    worker_id, jobs = await some(conn, 2)
    await blame(conn, worker_id, DEATH, {job.id: 0.1 for job in jobs})
    worker_id = await a_worker(conn)
    again = await claimed(conn, worker_id)
    assert all(job.alone for job in again)
    await retry(conn, again[:1], [{"reason": "no"}], [0.0], worker_id=worker_id)
    [job] = await claimed(conn, worker_id)
    assert not job.alone


@covers("G2")
async def test_of_two_that_bury_one_worker_the_second_finds_nothing(pool: Pool) -> None:
    async with pool.connection() as conn:
        worker_id, jobs = await some(conn, 3)
    ending = Ending("signal", "was killed by signal 9 (SIGKILL)", running={str(jobs[0].id): 0.1})

    async def burying() -> Any:
        async with pool.connection() as conn:
            return await bury(conn, worker_id, ending)

    async def sweeping() -> int:
        async with pool.connection() as conn:
            return await reclaim(conn)

    buried = await asyncio.gather(*(burying() for _ in range(4)), *(sweeping() for _ in range(2)))
    assert sorted(type(one).__name__ for one in buried[:4]) == ["Blamed", "NoneType", "NoneType", "NoneType"]
    assert buried[4:] == [0, 0]
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM job_kills") == 1
        assert await conn.fetchval("SELECT sum(kills)::int FROM queue_jobs") == 1
        assert await conn.fetchval("SELECT sum(reclaims)::int FROM queue_jobs") == 0


async def test_what_the_dead_process_still_holds_is_waited_for_and_a_stranger_is_not(pool: Pool) -> None:
    """The server finishes the statement of a client that is gone; a psql that was left open never ends."""
    async with pool.connection() as conn:
        worker_id, jobs = await some(conn, 3)
    running = {str(jobs[0].id): 0.1}
    async with pool.connection() as conn, pool.connection() as dying, pool.connection() as psql:
        stranger, last = psql.transaction(), dying.transaction()
        await stranger.start()
        await psql.execute("SELECT FROM queue_jobs WHERE id = $1 FOR UPDATE", jobs[2].id)
        await last.start()
        await dying.execute("DELETE FROM queue_jobs WHERE id = $1", jobs[0].id)
        burying = asyncio.create_task(bury(conn, worker_id, Ending("signal", "died", running=running)))
        await asyncio.sleep(0.05)
        await last.rollback()
        async with asyncio.timeout(5):
            buried = await burying
        await stranger.rollback()
        assert buried is not None
        assert (buried.jobs, buried.guilty, buried.locked) == (2, 1, 1)
        assert await reclaim(conn) == 1
        assert await conn.fetchval("SELECT sum(kills)::int FROM queue_jobs") == 1


@covers("O-48", "F-02")
async def test_each_kill_is_told_once_with_the_job_it_was_about_or_what_is_left_of_it(
    conn: Connection,
) -> None:
    worker_id, jobs = await some(conn, 2)
    await blame(conn, worker_id, DEATH, {job.id: 0.1 for job in jobs})
    await conn.execute("DELETE FROM queue_jobs WHERE id = $1", jobs[1].id)
    assert await untold(conn, ["another"]) is None
    found = []
    while (one := await untold(conn, ["another", "t"])) is not None:
        await told(conn, one.id)
        found.append((one.job.id, one.job.payload, one.evidence["verdict"], one.evidence["cause"]))
    assert sorted(found, key=str) == sorted(
        [(jobs[0].id, {"n": 1}, "suspect", "signal"), (jobs[1].id, {}, "suspect", "signal")], key=str
    )


async def test_kills_are_remembered_for_a_month(conn: Connection, travel: Travel) -> None:
    worker_id, [job] = await some(conn, 1)
    await blame(conn, worker_id, DEATH, {job.id: 0.1})
    assert await prune_kills(conn) == 0
    await travel(conn, days=31)
    assert await prune_kills(conn) == 1


@pytest.mark.parametrize("alone", [False, True])
async def test_what_is_given_back_is_ready_at_once_save_what_runs_alone(
    conn: Connection, alone: bool
) -> None:
    worker_id, [job] = await some(conn, 1)
    await conn.execute("UPDATE queue_jobs SET suspect = $1", alone)
    await give_back(conn, [job], worker_id=worker_id)
    assert len(await claimed(conn, worker_id)) == (0 if alone else 1)
