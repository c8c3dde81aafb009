"""The known faults of engines like this one, and the lease of whoever coordinates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.pace.pace import Pace
from starforge.backfill.partition.partition import Partition
from starforge.backfill.run import coordinate, held
from starforge.backfill.run.coordinate import Coordinator
from starforge.backfill.scheme.scheme import Window
from starforge.clock import new_id
from starforge.db.pool import Connection, Pool
from starforge.ops.perform import perform
from starforge.queue.reclaim import reclaim
from tests.backfill.backfills import ANN
from tests.backfill.engine import Engine, daily, engine
from tests.backfill.gates import Gates, day
from tests.conftest import Travel
from tests.covers import covers

pytestmark = pytest.mark.usefixtures("sound")

SHORT_S = 2.0
PACE = Pace(1.0, 0.5, "")


async def act(pool: Pool, name: str, backfill_id: UUID, **arguments: Any) -> None:
    """Perform an operation on a backfill."""
    await perform(pool, f"backfill {name}", {"job_id": str(backfill_id), **arguments}, **ANN)


async def ask(pool: Pool, statement: str, *values: Any) -> Any:
    """Run a statement by hand and return its first value."""
    async with pool.connection() as conn:
        return await conn.fetchval(statement, *values)


# ---- the known faults


@covers("D-05", "D-12", "B-24")
async def test_a_healthy_partition_is_not_run_twice_though_it_takes_longer_than_the_reclaim_age(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat is the coordinator's and does not wait for partitions: it is never even reclaimed."""
    for name in ("SUSPECT", "RECLAIMABLE"):
        monkeypatch.setenv(f"STARFORGE_BACKFILL_{name}_S", str(SHORT_S))
    gates = Gates()
    async with engine(pool, [daily("days", gates)]) as running:
        backfill_id = await running.create("days", 1)
        await gates.until(lambda seen: seen.came)
        running.coordinate(await running.enter())
        ran = "SELECT sf_now() - started_at FROM backfill_partitions"
        async with asyncio.timeout(20):
            while await ask(pool, ran) < timedelta(seconds=1.5 * SHORT_S):
                await asyncio.sleep(0.02)
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["lease_epoch"]) == ("completed", 1)
    assert gates.came == {day(1): 1}


@covers("D-05", "D-12", "B-24", "B-37")
async def test_a_partition_goes_on_and_is_not_run_twice_while_another_process_takes_its_backfill_over(
    pool: Pool, travel: Travel
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 3)
        await gates.until(lambda seen: seen.came)
        running.coordinate(await running.enter())
        async with pool.connection() as conn:
            await travel(conn, minutes=10)
        await running.until(backfill_id, lambda row: row["lease_epoch"] > 1)
        gates.let()
        row = await running.over(backfill_id)
        assert await ask(pool, "SELECT max(attempt_count) FROM backfill_partitions") == 1
    assert (row["state"], row["completed_partitions"]) == ("completed", 3)
    assert gates.came == {day(1): 1, day(2): 1, day(3): 1}


CRASHED = """
UPDATE backfill_partitions SET state = 'running', attempt_count = 1, queue_job_id = $2, started_at = sf_now()
WHERE backfill_job_id = $1 AND partition_key = $3
"""
HELD_JOB = """
INSERT INTO queue_jobs (id, queue, type, payload, status, worker_id, lease_epoch, limit_key)
VALUES ($1, 'backfill', 'asset:days', $2, 'running', $3, 1, $4)
"""


@covers("D-14", "B-24", "G7")
async def test_a_partition_left_running_by_a_crash_never_lets_its_backfill_be_completed(pool: Pool) -> None:
    """Its job still counts as run by a worker that nobody has found dead; then it is, and all is made."""
    gates, job_id, dead = Gates(open=True), new_id(), new_id()
    async with engine(pool, [daily("days", gates)], coordinators=0) as running:
        backfill_id = await running.create("days", 4)
        payload = {"backfill_id": str(backfill_id), "key": day(2), "ordinal": running.first + 1}
        await ask(pool, HELD_JOB, job_id, payload, dead, str(backfill_id))
        await ask(pool, CRASHED, backfill_id, job_id, day(2))
        running.coordinate()
        row = await running.until(backfill_id, lambda row: row["completed_partitions"] == 3)
        seen = row["updated_at"]
        row = await running.until(backfill_id, lambda row: row["updated_at"] > seen + timedelta(seconds=1))
        assert (row["state"], row["checkpoint_partition_key"]) == ("running", day(1))
        async with pool.connection() as conn:
            await reclaim(conn)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 4)
    assert gates.came == {day(n): 1 for n in range(1, 5)}


@covers("D-12", "G3", "G7")
async def test_a_zombie_that_goes_on_writes_nothing_of_its_partition(pool: Pool) -> None:
    """Its job was given to another; it wakes up and completes, or fails, when that one is at work or done."""
    await ask(pool, "CREATE TABLE made (day text, attempt integer)")
    woke, began = asyncio.Event(), asyncio.Event()
    refused: list[str] = []

    async def asleep(part: Partition[Window], conn: Connection) -> None:
        await conn.execute("INSERT INTO made VALUES ($1, $2)", part.key, part.attempt)
        began.set()
        await woke.wait()
        refused.append(part.key)
        if part.key == day(2):
            raise ValueError("a zombie's")

    async def make(part: Partition[Window], conn: Connection) -> None:
        await conn.execute("INSERT INTO made VALUES ($1, $2)", part.key, part.attempt)

    async with engine(pool, [daily("days", asleep)], concurrency=2) as zombie:
        backfill_id = await zombie.create("days", 2)
        await began.wait()
        async with asyncio.timeout(20):
            while await ask(pool, "SELECT count(*) FROM backfill_partitions WHERE state = 'running'") < 2:
                await asyncio.sleep(0.01)
        await ask(pool, "UPDATE workers SET state = 'dead' WHERE id = $1", zombie.worker_id)
        async with engine(pool, [daily("days", make)]) as other:
            async with pool.connection() as conn:
                assert await reclaim(conn) == 2
            row = await other.over(backfill_id)
            woke.set()
            async with asyncio.timeout(20):
                while len(refused) < 2:
                    await asyncio.sleep(0.01)
    after = await zombie.row(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 2)
    assert {key: row[key] for key in ("state", "version", "updated_at")} == {
        key: after[key] for key in ("state", "version", "updated_at")
    }
    async with pool.connection() as conn:
        made = await conn.fetch("SELECT day, attempt FROM made ORDER BY day")
        parts = await conn.fetch("SELECT state, attempt_count, error_message FROM backfill_partitions")
        assert await conn.fetchval("SELECT count(*) FROM backfill_ended") == 0
    assert [tuple(one) for one in made] == [(day(1), 2), (day(2), 2)]
    assert {tuple(one) for one in parts} == {("completed", 2, None)}


@covers("B-23", "B-37")
async def test_a_resumed_backfill_goes_before_pending_ones_of_the_same_priority(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinate, "HELD_MAX", 1)
    gates = Gates()
    assets = [daily(name, gates) for name in ("older", "resumed", "urgent")]
    async with engine(pool, assets, coordinators=0) as running:
        ids = [await running.create("older", 1), await running.create("resumed", 1)]
        urgent = await running.create("urgent", 1, priority=1)
        await ask(
            pool, "UPDATE backfill_jobs SET state = 'paused', paused_at = sf_now() WHERE id = $1", ids[1]
        )
        await act(pool, "resume", ids[1])
        gates.let()
        running.coordinate()
        rows = [await running.over(each) for each in (urgent, *reversed(ids))]
    started = [row["started_at"] for row in rows]
    assert started == sorted(started)


@covers("B-48", "B-49", "B-22")
async def test_an_estimate_knows_nothing_of_the_time_that_its_backfill_was_paused(
    pool: Pool, travel: Travel
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 8)
        gates.let(*(day(n) for n in range(1, 5)))
        row = await running.until(backfill_id, lambda row: row["completed_partitions"] == 4)
        await act(pool, "pause", backfill_id)
        gates.let(day(5), day(6))
        row = await running.until(backfill_id, lambda row: row["worker_id"] is None)
        before_ms = row["avg_partition_duration_ms"]
        async with pool.connection() as conn:
            await travel(conn, hours=3)
        await act(pool, "resume", backfill_id)
        row = await running.until(
            backfill_id, lambda row: row["state"] == "running" and row["eta_high_at"] is not None
        )
        assert row["avg_partition_duration_ms"] == pytest.approx(before_ms, rel=0.5)
        assert row["eta_high_at"] - row["updated_at"] < timedelta(minutes=2)
        assert "3 h paused are not counted" in row["eta_basis"]
        gates.let()
        row = await running.over(backfill_id)
    assert row["avg_partition_duration_ms"] < 60_000


# ---- the lease


async def held_by(pool: Pool, running: Engine) -> tuple[Coordinator, held.Held]:
    """Let one more process take what is free, and return its hold."""
    worker_id = await running.enter()
    coordinator = Coordinator(pool.connection, lambda: worker_id)
    async with pool.connection() as conn:
        taken = await coordinator._take(conn, worker_id)
    assert taken is not None
    return coordinator, taken


async def tick(pool: Pool, hold: held.Held) -> bool:
    async with pool.connection() as conn:
        return await hold.tick(conn, PACE)


@covers("B-37")
async def test_a_partition_that_writes_poison_rows_for_long_does_not_keep_its_backfill_from_a_coordinator(
    pool: Pool,
) -> None:
    """A row that refers to a backfill holds it against deletion, and against nothing else."""
    poison = (
        "INSERT INTO backfill_poison (backfill_job_id, row_key, tenant_id, asset_name, ordinal, error_type,"
        " error_message) VALUES ($1, 1, 'default', 'days', 1, 'ValueError', 'no')"
    )
    async with engine(pool, [daily("days", Gates(open=True))], coordinators=0) as running:
        backfill_id = await running.create("days", 1)
        async with pool.connection() as writes, writes.transaction():
            await writes.execute(poison, backfill_id)
            _, hold = await held_by(pool, running)
        assert hold.id == backfill_id
        running.coordinate()
        await ask(pool, "UPDATE workers SET state = 'dead' WHERE id = $1", hold.worker_id)
        await running.over(backfill_id)


@covers("D-12", "G7")
async def test_another_epoch_alone_ends_a_coordinators_lease(pool: Pool) -> None:
    async with engine(pool, [daily("days", Gates(open=True))], coordinators=0) as running:
        backfill_id = await running.create("days", 5)
        _, old = await held_by(pool, running)
        assert await tick(pool, old)
        await ask(pool, "UPDATE backfill_jobs SET lease_epoch = lease_epoch + 1")
        before = await running.row(backfill_id)
        assert not await tick(pool, old)
        assert await running.row(backfill_id) == before


@pytest.mark.parametrize("how", ["reclaim", "heartbeat", "worker"])
@covers("D-12", "D-11", "B-38", "G7")
async def test_of_two_coordinators_the_one_that_was_followed_writes_nothing(pool: Pool, how: str) -> None:
    gates = Gates(open=True)
    async with engine(pool, [daily("days", gates)], coordinators=0) as running:
        backfill_id = await running.create("days", 5)
        _, old = await held_by(pool, running)
        assert await tick(pool, old)
        if how == "reclaim":
            await act(pool, "reclaim", backfill_id)
        elif how == "heartbeat":
            aged = (
                "UPDATE backfill_jobs SET heartbeat_at = now() - interval '5 minutes', version = version + 1"
            )
            await ask(pool, aged)
        else:
            await ask(pool, "UPDATE workers SET state = 'dead' WHERE id = $1", old.worker_id)
        if how != "worker":  # from this moment, though nobody has followed it yet
            before = await running.row(backfill_id)
            assert not await tick(pool, old)
            assert await running.row(backfill_id) == before
        _, new = await held_by(pool, running)
        assert new.epoch > old.epoch
        await gates.until(lambda seen: len(seen.passed) == 5)
        async with asyncio.timeout(20):
            while await ask(pool, "SELECT count(*) FROM backfill_ended") < 5:
                await asyncio.sleep(0.01)
        before = await running.row(backfill_id)
        assert not await tick(pool, old)
        assert await running.row(backfill_id) == before
        assert await ask(pool, "SELECT count(*) FROM backfill_ended") == 5
        assert not await tick(pool, new)
        row = await running.row(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 5)


@covers("D-12", "B-37")
async def test_a_backfill_that_cannot_be_looked_after_stops_none_beside_it(pool: Pool) -> None:
    """Its priority is none that a job may have, by somebody's hand; set right, it goes on by itself."""
    gates = Gates(open=True)
    async with engine(pool, [daily("bad", gates), daily("good", gates)], coordinators=0) as running:
        bad, good = await running.create("bad", 3), await running.create("good", 3)
        await ask(pool, "UPDATE backfill_jobs SET priority = 5000 WHERE id = $1", bad)
        running.coordinate()
        assert (await running.over(good))["state"] == "completed"
        assert (await running.row(bad))["completed_partitions"] == 0
        await ask(pool, "UPDATE backfill_jobs SET priority = 0 WHERE id = $1", bad)
        assert (await running.over(bad))["state"] == "completed"


@covers("X-14", "D-12")
async def test_a_backfill_whose_row_somebody_holds_locked_stops_none_beside_it(pool: Pool) -> None:
    gates = Gates()
    async with engine(pool, [daily("locked", gates), daily("free", gates)], concurrency=2) as running:
        locked = await running.create("locked", 1)
        await gates.until(lambda seen: seen.came)
        async with pool.connection() as conn, conn.transaction():
            await conn.execute("SELECT FROM backfill_jobs WHERE id = $1 FOR UPDATE", locked)
            gates.let()
            free = await running.create("free", 3)
            assert (await running.over(free, within_s=10))["state"] == "completed"
        row = await running.over(locked)
    assert (row["state"], row["lease_epoch"]) == ("completed", 1)


@pytest.mark.parametrize("by_hand", ["heartbeat", "state"])
@covers("B-22", "D-13", "X-14")
async def test_no_reclaim_age_keeps_what_is_aged_or_resumed_by_hand_from_going_on(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, by_hand: str
) -> None:
    """The statements of the runbooks age by minutes; a reclaim age may be longer."""
    for name in ("RECLAIMABLE", "ALERT", "BULK_RECOVERY"):
        monkeypatch.setenv(f"STARFORGE_BACKFILL_{name}_S", "80000")
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 3)
        await gates.until(lambda seen: seen.came)
        if by_hand == "heartbeat":
            await ask(pool, "UPDATE backfill_jobs SET heartbeat_at = now() - interval '5 minutes'")
        else:
            await ask(pool, "UPDATE backfill_jobs SET state = 'paused', paused_at = now()")
            await ask(pool, "UPDATE backfill_jobs SET state = 'resuming'")
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 3)
    assert set(gates.came.values()) == {1}


@covers("D-12", "B-37")
async def test_a_backfill_that_takes_too_long_at_each_look_stops_none_of_the_others(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is lent for a short time: who needs more is cut off, and the others are looked after."""
    gates, does = Gates(open=True), held.Held.tick
    assets = [daily("large", gates), daily("small", gates)]
    async with engine(pool, assets, coordinators=0) as running:
        large = await running.create("large", 3, priority=9)
        small = await running.create("small", 3)

        async def tick(hold: held.Held, conn: Connection, pace: Pace) -> bool:
            if hold.id == large:
                await asyncio.Event().wait()
            return await does(hold, conn, pace)

        @asynccontextmanager
        async def lend() -> AsyncIterator[Connection]:
            async with asyncio.timeout(0.5), pool.connection() as conn:
                yield conn

        monkeypatch.setattr(held.Held, "tick", tick)
        made = Coordinator(lend, lambda: running.worker_id)
        running.coordinating.append(asyncio.create_task(made.run(running.stop)))
        assert (await running.over(small))["state"] == "completed"
        row = await running.row(large)
        assert (row["state"], row["completed_partitions"]) == ("running", 0)
        monkeypatch.setattr(held.Held, "tick", does)
        assert (await running.over(large))["state"] == "completed"
