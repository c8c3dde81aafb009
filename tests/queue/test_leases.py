"""Leases: only the newest may finish a job, a zombie gets nothing, and nothing is lost with a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.fail import fail, quarantine
from starforge.queue.gate import close, end
from starforge.queue.job import JOB, LIVE_STATUSES, NewJob
from starforge.queue.reclaim import reclaim
from starforge.queue.retry import give_back, give_back_unknown, retry
from starforge.worker.registry import bury, expire, extend
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed

Travel = Callable[..., Awaitable[None]]
ERROR = {"reason": "it broke"}


async def _status(conn: Connection, job_id: object) -> Any:
    return await conn.fetchval("SELECT status FROM queue_jobs WHERE id = $1", job_id)


@covers("D-12")
async def test_a_stale_worker_cannot_complete_a_reclaimed_job(conn: Connection, travel: Travel) -> None:
    """Only the newest lease may finish a job."""
    job_id = (await enqueue(conn, NewJob("t"))).id
    old = await a_worker(conn)
    [stale] = await claimed(conn, old)
    await travel(conn, minutes=10)
    assert await expire(conn) == 1
    assert await reclaim(conn) == 1
    new = await a_worker(conn)
    [fresh] = await claimed(conn, new)

    assert fresh.lease_epoch > stale.lease_epoch
    assert await complete(conn, [stale], [1.0], worker_id=old) == set()
    assert await complete(conn, [stale], [1.0], worker_id=new) == set()
    assert await complete(conn, [fresh], [1.0], worker_id=new) == {job_id}
    assert await conn.fetchval("SELECT count(*) FROM job_history WHERE id = $1", job_id) == 1


@pytest.mark.parametrize("verb", ["complete", "retry", "fail", "quarantine", "give_back"])
@covers("D-12", "X-03")
async def test_no_acknowledging_write_passes_with_an_old_epoch(
    conn: Connection, travel: Travel, verb: str
) -> None:
    await enqueue(conn, NewJob("t"))
    old = await a_worker(conn)
    stale = await claimed(conn, old)
    await travel(conn, minutes=10)
    await expire(conn)
    await reclaim(conn)
    new = await a_worker(conn)
    [fresh] = await claimed(conn, new)
    for me in (old, new):
        match verb:
            case "complete":
                accepted = await complete(conn, stale, [1.0], worker_id=me)
            case "retry":
                accepted = await retry(conn, stale, [ERROR], [0.0], worker_id=me)
            case "fail":
                accepted = await fail(conn, stale, [ERROR], worker_id=me)
            case "quarantine":
                accepted = await quarantine(conn, stale, [ERROR], worker_id=me)
            case _:
                accepted = await give_back(conn, stale, worker_id=me)
        assert accepted == set()
    row = await conn.fetchrow("SELECT status, lease_epoch, worker_id FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("running", fresh.lease_epoch, new)
    assert await conn.fetchval("SELECT count(*) FROM queue_jobs_dlq") == 0


async def test_a_worker_whose_lease_is_over_claims_nothing(conn: Connection, travel: Travel) -> None:
    await enqueue(conn, NewJob("t"))
    worker_id = await a_worker(conn)
    await travel(conn, seconds=31)
    assert await claimed(conn, worker_id) == []
    assert not await extend(conn, worker_id, lease_s=30)


async def test_a_buried_workers_jobs_are_reclaimed_before_its_lease_runs_out(conn: Connection) -> None:
    job_id = (await enqueue(conn, NewJob("t", max_attempts=1))).id
    worker_id = await a_worker(conn)
    await claimed(conn, worker_id)
    assert await reclaim(conn) == 0
    assert await bury(conn, worker_id, "killed")
    assert await reclaim(conn) == 1
    row = await conn.fetchrow("SELECT status, attempts, worker_id FROM queue_jobs WHERE id = $1", job_id)
    assert row is not None
    assert tuple(row) == ("pending", 0, None)


async def test_a_strangers_lock_on_a_dead_workers_job_holds_nobody_up(pool: Pool) -> None:
    """Every supervisor reclaims: one psql that was left open must not stop them all."""
    async with pool.connection() as conn:
        for _ in range(2):
            await enqueue(conn, NewJob("t"))
        worker_id = await a_worker(conn)
        jobs = await claimed(conn, worker_id)
        await bury(conn, worker_id, "killed")
    async with pool.transaction() as psql, pool.connection() as conn:
        await psql.execute("SELECT FROM queue_jobs WHERE id = $1 FOR UPDATE", jobs[0].id)
        async with asyncio.timeout(5):
            assert await reclaim(conn) == 1
    async with pool.connection() as conn:
        assert await reclaim(conn) == 1


async def test_a_worker_gives_back_what_it_does_not_know_of_and_nothing_else(conn: Connection) -> None:
    for _ in range(4):
        await enqueue(conn, NewJob("t"))
    me, other = await a_worker(conn), await a_worker(conn)
    known = await claimed(conn, me, 1)
    await claimed(conn, me, 1)
    await claimed(conn, other, 1)
    assert await give_back_unknown(conn, [job.id for job in known], worker_id=me) == 1
    assert await give_back_unknown(conn, [job.id for job in known], worker_id=me) == 0
    rows = await conn.fetch("SELECT status, worker_id FROM queue_jobs ORDER BY created_at")
    assert [tuple(row) for row in rows] == [
        ("running", me),
        ("pending", None),
        ("running", other),
        ("pending", None),
    ]
    assert await complete(conn, known, [1.0], worker_id=me) == {known[0].id}


async def test_a_failed_attempt_waits_out_its_delay_and_counts(conn: Connection, travel: Travel) -> None:
    job_id = (await enqueue(conn, NewJob("t"))).id
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    assert await retry(conn, [job], [ERROR], [10.0], worker_id=worker_id) == {job_id}
    assert await claimed(conn, worker_id) == []
    await travel(conn, seconds=11)
    [again] = await claimed(conn, worker_id)
    assert (again.attempts, again.attempt) == (1, 2)


@covers("D-19", "Q-50", "D-10")
async def test_a_job_given_up_is_failed_and_a_dead_letter_in_one_statement(conn: Connection) -> None:
    job_id = (await enqueue(conn, NewJob("t", {"n": 1}, max_attempts=1))).id
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    assert await fail(conn, [job], [ERROR], worker_id=worker_id) == {job_id}
    assert await _status(conn, job_id) == "failed"
    letter = await conn.fetchrow("SELECT * FROM queue_jobs_dlq WHERE original_job_id = $1", job_id)
    assert letter is not None
    assert (letter["reason"], letter["payload"], letter["type"]) == ("it broke", {"n": 1}, "t")
    assert (letter["original_status"], letter["attempts"], letter["generation"]) == (
        "running",
        1,
        job.lease_epoch,
    )
    assert await claimed(conn, worker_id) == []


@covers("X-14")
async def test_a_job_failed_by_hand_while_running_stays_failed(conn: Connection) -> None:
    job_id = (await enqueue(conn, NewJob("t"))).id
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    await conn.execute("UPDATE queue_jobs SET status = 'failed', updated_at = now() WHERE id = $1", job_id)
    assert await complete(conn, [job], [1.0], worker_id=worker_id) == set()
    assert await retry(conn, [job], [ERROR], [0.0], worker_id=worker_id) == set()
    assert await _status(conn, job_id) == "failed"


async def test_a_job_that_a_stopping_worker_gives_back_has_burnt_no_attempt(conn: Connection) -> None:
    job_id = (await enqueue(conn, NewJob("t"))).id
    worker_id = await a_worker(conn)
    jobs = await claimed(conn, worker_id)
    assert await give_back(conn, jobs, worker_id=worker_id) == {job_id}
    [again] = await claimed(conn, worker_id)
    assert again.attempts == 0
    assert again.lease_epoch > jobs[0].lease_epoch


async def test_two_claims_at_once_never_lease_one_job_twice(pool: Pool) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t", {"n": n}) for n in range(500)])
        worker_id = await a_worker(conn)

    async def some() -> list[Any]:
        async with pool.connection() as conn:
            return [job.id for _ in range(5) for job in await claimed(conn, worker_id, 25)]

    taken = [job_id for part in await asyncio.gather(*(some() for _ in range(4))) for job_id in part]
    assert len(taken) == len(set(taken)) == 500


async def test_higher_priority_is_claimed_first_and_then_by_time(conn: Connection) -> None:
    for priority in (0, 5, -1, 5):
        await enqueue(conn, NewJob("t", {"p": priority}, priority=priority))
    worker_id = await a_worker(conn)
    first = await claimed(conn, worker_id, 2)
    rest = await claimed(conn, worker_id, 10)
    assert [job.payload["p"] for job in (*first, *rest)] == [5, 5, 0, -1]


async def test_types_that_a_worker_does_not_know_are_left_waiting(conn: Connection) -> None:
    await enqueue(conn, NewJob("of another version"))
    assert await claimed(conn, await a_worker(conn)) == []
    assert await conn.fetchval("SELECT status FROM queue_jobs") == "pending"


@covers("Q-47", "X-11")
async def test_a_paused_queue_is_not_claimed_until_it_is_resumed_or_the_pause_expires(
    conn: Connection, travel: Travel
) -> None:
    await enqueue(conn, NewJob("t"))
    worker_id = await a_worker(conn, lease_s=3600)
    await close(conn, "queue", "default", owner="ann", reason="storm", minutes=10)
    assert await claimed(conn, worker_id) == []
    await travel(conn, minutes=11)
    [job] = await claimed(conn, worker_id)
    await give_back(conn, [job], worker_id=worker_id)
    await close(conn, "queue", "default", owner="ann", reason="storm", minutes=10)
    assert await claimed(conn, worker_id) == []
    await end(conn, "queue", "default")
    assert len(await claimed(conn, worker_id)) == 1


@covers("Q-23", "D-19")
async def test_the_database_allows_exactly_the_statuses_of_the_state_table(conn: Connection) -> None:
    live = await _check_values(conn, "queue_jobs_status")
    finished = await _check_values(conn, "job_history_status")
    assert live == set(LIVE_STATUSES)
    assert live | finished == set(JOB.states)
    assert finished == set(JOB.terminal)


async def _check_values(conn: Connection, constraint: str) -> set[str]:
    import re

    text = await conn.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1 AND conparentid = 0",
        constraint,
    )
    return set(re.findall(r"'(\w+)'", text))
