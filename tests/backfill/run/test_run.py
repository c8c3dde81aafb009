"""Partitions run as jobs of the queue: each is made once, in its own transaction or together with others."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from starforge.backfill.partition.partition import QUEUE, Partition
from starforge.backfill.run import feed
from starforge.backfill.run.run import partition_types
from starforge.backfill.scheme.scheme import Window
from starforge.clock import new_id
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.queue.enqueue import enqueue
from starforge.queue.handler import JobTypes
from starforge.queue.job import NewJob
from starforge.worker.tell import tell_one
from tests.backfill.backfills import a_backfill
from tests.backfill.engine import daily, engine
from tests.backfill.gates import Gates, day
from tests.covers import covers


@covers("B-01", "B-23", "B-18")
async def test_every_partition_is_made_once_and_counted(pool: Pool) -> None:
    seen: Counter[str] = Counter()

    async def make(day: Partition[Window]) -> None:
        seen[day.key] += 1

    async with engine(pool, [daily("days", make)]) as running:
        backfill_id = await running.create("days", 300)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["failed_partitions"]) == ("completed", 300, 0)
    assert row["checkpoint_partition_key"] == "2024-10-26"
    assert len(seen) == 300
    assert set(seen.values()) == {1}


async def test_what_a_handler_writes_is_there_with_the_partition_or_not_at_all(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("CREATE TABLE made (day text PRIMARY KEY)")

    async def make(day: Partition[Window], conn: Connection) -> None:
        await conn.execute("INSERT INTO made VALUES ($1)", day.key)
        if day.key == "2024-01-03" and day.attempt == 1:
            raise ValueError("not yet")

    async with engine(pool, [daily("days", make)]) as running:
        backfill_id = await running.create("days", 5)
        row = await running.over(backfill_id)
        async with pool.connection() as conn:
            assert await conn.fetchval("SELECT count(*) FROM made") == 5
            assert await conn.fetchval("SELECT sum(attempt_count) FROM backfill_partitions") == 6
    assert (row["state"], row["completed_partitions"]) == ("completed", 5)


@covers("B-01")
async def test_partitions_that_wait_for_another_attempt_hold_up_none_of_the_others(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them wait than are fed ahead, and for longer than the test lasts."""
    monkeypatch.setenv("STARFORGE_BACKOFF_BASE_S", "600")
    monkeypatch.setattr(feed, "AHEAD_S", 0.0)
    gates = Gates(open=True)
    gates.fails = {day(number) for number in range(11, 17)}
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 60)
        row = await running.until(backfill_id, lambda row: row["completed_partitions"] == 54)
    assert (row["state"], row["failed_partitions"]) == ("running", 0)
    assert set(gates.came.values()) == {1}


GUILTY = """
INSERT INTO job_kills (job_id, tenant_id, type, worker_id, lease_epoch, verdict, cause, evidence)
SELECT id, tenant_id, type, gen_random_uuid(), lease_epoch - 1, 'guilty', 'oom', '{"quarantined": false}'
FROM queue_jobs WHERE status = 'running'
"""


@covers("D-12", "B-24", "G7")
async def test_the_end_of_an_attempt_that_is_told_late_takes_nothing_from_the_one_that_follows(
    pool: Pool,
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates)]) as running:
        backfill_id = await running.create("days", 1)
        await gates.until(lambda seen: seen.came)
        async with pool.connection() as conn:
            await conn.execute(GUILTY)
        assert await tell_one(pool, JobTypes(partition_types(running.assets)))
        gates.let()
        row = await running.over(backfill_id)
        async with pool.connection() as conn:
            attempts = await conn.fetchval("SELECT attempt_count FROM backfill_partitions")
    assert (row["state"], row["completed_partitions"], attempts) == ("completed", 1, 1)


@pytest.mark.parametrize(("own_job", "attempt", "done"), [(True, 2, 0), (False, 1, 0), (True, 1, 1)])
@covers("B-24", "G3")
async def test_only_the_attempt_that_runs_completes_its_partition(
    conn: Connection, own_job: bool, attempt: int, done: int
) -> None:
    """By its row alone: the lease of its job says the same, and neither leans on the other."""
    job_id = new_id()
    backfill_id = await a_backfill(conn, "running", "running")
    await conn.execute("UPDATE backfill_partitions SET queue_job_id = $1", job_id)
    given = [backfill_id], [1], [job_id if own_job else new_id()], [attempt], ["v"], [1.0]
    assert len(await conn.fetch(sql("backfill", "complete"), *given)) == done
    assert await conn.fetchval("SELECT count(*) FROM backfill_partitions WHERE state = 'completed'") == done
    assert await conn.fetchval("SELECT count(*) FROM backfill_ended") == done


@covers("B-24", "B-33", "G3")
async def test_only_the_attempt_that_runs_fails_its_partition_or_moves_its_cursor(conn: Connection) -> None:
    job_id, other = new_id(), new_id()
    backfill_id = await a_backfill(conn, "running", "running")
    await conn.execute("UPDATE backfill_partitions SET queue_job_id = $1", job_id)
    advance, fail = sql("backfill", "advance"), sql("backfill", "fail")
    for job, attempt in ((other, 1), (job_id, 2)):
        assert await conn.fetchrow(advance, backfill_id, 1, job, attempt, {"at": 7}) is None
    assert await conn.fetchrow(fail, backfill_id, 1, other, False, "it failed", "mark") is None
    assert await conn.fetchrow(advance, backfill_id, 1, job_id, 1, {"at": 7})
    assert await conn.fetchrow(fail, backfill_id, 1, job_id, False, "it failed", "mark")
    row = await conn.fetchrow("SELECT state, cursor, error_message FROM backfill_partitions")
    assert row is not None
    assert tuple(row) == ("pending", {"at": 7}, "it failed")


@covers("B-24", "G3", "G7")
async def test_a_second_job_of_a_partition_that_runs_starts_nothing(pool: Pool) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates)]) as running:
        backfill_id = await running.create("days", 1)
        await gates.until(lambda seen: seen.came[day(1)])
        async with pool.connection() as conn:
            payload = await conn.fetchval("SELECT payload FROM queue_jobs WHERE status = 'running'")
            await enqueue(conn, NewJob("asset:days", payload, queue=QUEUE))
            async with asyncio.timeout(20):
                while not await conn.fetchval("SELECT count(*) FROM job_history WHERE status = 'cancelled'"):
                    await asyncio.sleep(0.02)
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], gates.came[day(1)]) == ("completed", 1, 1)


@covers("B-70", "G11")
async def test_a_job_of_another_tenant_starts_no_partition(pool: Pool) -> None:
    made: list[str] = []

    async def make(day: Partition[Window]) -> None:
        made.append(day.key)

    async with engine(pool, [daily("days", make)], coordinators=0) as running:
        backfill_id = await running.create("days", 2, tenant_id="bolt", state="running")
        async with pool.connection() as conn:
            first = (
                "SELECT ordinal FROM backfill_partitions WHERE backfill_job_id = $1 ORDER BY ordinal LIMIT 1"
            )
            payload: dict[str, Any] = {"backfill_id": str(backfill_id), "key": "2024-01-01"}
            payload["ordinal"] = await conn.fetchval(first, backfill_id)
            await enqueue(conn, NewJob("asset:days", payload, queue=QUEUE, tenant="acme"))
            async with asyncio.timeout(20):
                while not await conn.fetchval("SELECT count(*) FROM job_history WHERE status = 'cancelled'"):
                    await asyncio.sleep(0.02)
            states = "SELECT array_agg(state) FROM backfill_partitions"
            assert await conn.fetchval(states) == ["pending", "pending"]
    assert made == []
