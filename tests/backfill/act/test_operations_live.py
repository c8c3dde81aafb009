"""Acts on a backfill that runs: a coordinator and a worker follow them, and every partition is made once."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import Window
from starforge.clock import monotonic_s
from starforge.db.pool import Pool
from starforge.ops.audit import Result
from starforge.ops.perform import perform
from starforge.queue.declare import Retry
from tests.backfill.backfills import ANN, WHY
from tests.backfill.engine import Engine, daily, engine
from tests.backfill.gates import Gates
from tests.covers import covers


@dataclass
class Work:
    """A handler that a test holds back, lets fail, and counts."""

    made: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most: int = 0
    takes_s: float = 0.01
    open: asyncio.Event = field(default_factory=asyncio.Event)
    fails: set[str] = field(default_factory=set)
    ended_s: float = 0.0

    def __post_init__(self) -> None:
        self.open.set()

    async def make(self, day: Partition[Window]) -> None:
        """Make a partition."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.takes_s)
            if day.key in self.fails:
                raise ValueError("the source is down")
            await self.open.wait()
            self.made[day.key] += 1
        finally:
            self.running -= 1
            self.ended_s = monotonic_s()


async def act(pool: Pool, verb: str, backfill_id: UUID, /, **arguments: Any) -> Result:
    return await perform(pool, f"backfill {verb}", {"job_id": str(backfill_id), **arguments}, **ANN)


async def began(running: Engine, backfill_id: UUID, completed: int) -> dict[str, Any]:
    return await running.until(backfill_id, lambda row: row["completed_partitions"] >= completed)


def let_go(row: dict[str, Any]) -> bool:
    return row["worker_id"] is None


async def states(pool: Pool, backfill_id: UUID) -> Counter[str]:
    async with pool.connection() as conn:
        rows = await conn.fetch(
            "SELECT state FROM backfill_partitions WHERE backfill_job_id = $1", backfill_id
        )
    return Counter(row["state"] for row in rows)


@covers("B-15", "B-17", "B-18", "B-19", "B-22", "B-23", "B-24")
async def test_a_paused_backfill_lets_its_partitions_end_starts_no_other_and_goes_on_where_it_was(
    pool: Pool,
) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make)]) as running:
        one = await running.create("days", 200, concurrency=4)
        await began(running, one, 20)
        await act(pool, "pause", one, reason=WHY)
        paused = await running.until(one, let_go)
        confirmed_s = monotonic_s() - work.ended_s
        found = await states(pool, one)
        assert found == Counter(completed=paused["completed_partitions"], pending=200 - len(work.made))
        assert paused["completed_partitions"] == len(work.made) < 200
        assert (paused["state"], paused["state_by"], paused["state_reason"]) == ("paused", "ann", WHY)
        assert paused["avg_partition_duration_ms"] is not None
        assert confirmed_s < 1.0, "pause is confirmed within a second of the last partition's end"
        before = len(work.made)
        await asyncio.sleep(0.09)
        assert len(work.made) == before
        await act(pool, "resume", one)
        row = await running.over(one)
    assert (row["state"], row["completed_partitions"]) == ("completed", 200)
    assert set(work.made.values()) == {1}


@covers("B-27", "B-28")
async def test_a_cancelled_backfill_lets_its_partitions_end_and_counts_what_is_left_as_cancelled(
    pool: Pool,
) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make)]) as running:
        one = await running.create("days", 200, concurrency=4)
        await began(running, one, 20)
        await act(pool, "cancel", one, reason=WHY)
        row = await running.over(one)
    found = await states(pool, one)
    assert found == Counter(completed=len(work.made), cancelled=200 - len(work.made))
    assert (row["state"], row["error_message"]) == ("cancelled", f"cancelled by ann: {WHY}")
    counted = row["completed_partitions"], row["cancelled_partitions"], row["failed_partitions"]
    assert counted == (found["completed"], found["cancelled"], 0)


@pytest.mark.parametrize("paused", [False, True])
@covers("B-43", "G7")
async def test_what_failed_runs_again_in_place_and_the_backfill_completes(pool: Pool, paused: bool) -> None:
    work = Work(fails={"2024-01-02", "2024-01-05"})
    async with engine(pool, [daily("days", work.make, retries=0)]) as running:
        one = await running.create("days", 30, concurrency=4, attempts_max=1)
        await running.until(one, lambda row: row["failed_partitions"] == 2)
        work.open.clear()
        await running.until(one, lambda _: work.running == 4)
        if paused:
            await act(pool, "pause", one)
        work.fails.clear()
        done = await act(pool, "retry-failed", one)
        assert done.sample == ("2024-01-02", "2024-01-05")
        work.open.set()
        if paused:
            await running.until(one, let_go)
            await act(pool, "resume", one)
        row = await running.over(one)
    assert (row["state"], row["completed_partitions"], row["failed_partitions"]) == ("completed", 30, 0)
    assert row["checkpoint_partition_key"] == "2024-01-30"
    assert set(work.made.values()) == {1}


@covers("B-45", "B-69")
async def test_a_new_concurrency_holds_while_it_runs(pool: Pool) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make, concurrency=2)], concurrency=8) as running:
        one = await running.create("days", 300, concurrency=2)
        await began(running, one, 10)
        assert work.most <= 2
        work.open.clear()
        await running.until(one, lambda _: work.running == 2)
        await act(pool, "set", one, concurrency=6)
        await running.until(one, lambda _: work.running == 6, within_s=5)
        work.open.set()
        await began(running, one, 60)
        work.most = 0
        await act(pool, "set", one, concurrency=300)
        row = await running.over(one)
    assert (row["state"], row["completed_partitions"]) == ("completed", 300)
    assert set(work.made.values()) == {1}


@covers("B-38", "D-12", "G7")
async def test_a_reclaim_of_a_live_coordinator_gives_the_backfill_to_another_and_makes_nothing_twice(
    pool: Pool,
) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make)], coordinators=2) as running:
        one = await running.create("days", 300, concurrency=4)
        row = await began(running, one, 10)
        for _ in range(3):
            done = await act(pool, "reclaim", one, reason=WHY)
            aged = done.after["lease_epoch"]
            assert aged > row["lease_epoch"]

            def taken(row: dict[str, Any], aged: int = aged) -> bool:
                return bool(row["lease_epoch"] > aged)

            row = await running.until(one, taken, within_s=5)
        row = await running.over(one)
    assert (row["state"], row["completed_partitions"]) == ("completed", 300)
    assert set(work.made.values()) == {1}


BY_HAND = {
    "B-SQL-13": """
        UPDATE backfill_jobs SET heartbeat_at = NOW() - INTERVAL '5 minutes'
        WHERE state = 'running' AND heartbeat_at < NOW() - INTERVAL '10 minutes'
        RETURNING id, asset_name""",
    "B-SQL-14": """
        UPDATE backfill_jobs SET state = 'cancelled', completed_at = NOW(), version = version + 1,
            error_message = 'Bulk cancelled: stuck in resuming state'
        WHERE state = 'resuming' AND heartbeat_at < NOW() - INTERVAL '10 minutes'
        RETURNING id, asset_name""",
}
AGE = "UPDATE backfill_jobs SET heartbeat_at = sf_now() - interval '11 minutes' WHERE id = $1"


@covers("X-14", "B-51", "B-37")
async def test_stuck_backfills_that_were_aged_by_hand_go_on_under_another_coordinator(pool: Pool) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make)]) as running:
        one = await running.create("days", 200, concurrency=4)
        row = await began(running, one, 10)
        async with pool.connection() as conn, conn.transaction():
            await conn.execute(AGE, one)
            told = await conn.fetch(BY_HAND["B-SQL-13"])
        assert [tuple(each) for each in told] == [(one, "days")]
        row = await running.over(one)
    assert row["lease_epoch"] >= 2, "whoever held it lost it, and it was claimed again"
    assert (row["state"], row["completed_partitions"]) == ("completed", 200)
    assert set(work.made.values()) == {1}


@covers("X-14", "B-52", "B-28")
async def test_one_that_was_cancelled_by_hand_while_it_was_resuming_is_settled_all_the_same(
    pool: Pool,
) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make)]) as running:
        one = await running.create("days", 200, concurrency=4)
        await began(running, one, 10)
        await act(pool, "pause", one)
        await running.until(one, let_go)
        async with pool.connection() as conn, conn.transaction():
            await conn.execute("UPDATE backfill_jobs SET state = 'resuming' WHERE id = $1", one)
            await conn.execute(AGE, one)
            assert [each["id"] for each in await conn.fetch(BY_HAND["B-SQL-14"])] == [one]
        row = await running.over(one)
    assert (row["state"], row["cancelled_partitions"]) == ("cancelled", 200 - len(work.made))
    assert row["error_message"] == "Bulk cancelled: stuck in resuming state"


@covers("B-12", "B-23")
async def test_a_pause_that_was_planned_to_end_ends_by_itself(pool: Pool) -> None:
    work = Work()
    async with engine(pool, [daily("days", work.make)]) as running:
        one = await running.create("days", 100, concurrency=4)
        await began(running, one, 10)
        await act(pool, "pause", one, resume_in="1s")
        await running.until(one, let_go)
        row = await running.over(one)
    assert (row["state"], row["completed_partitions"]) == ("completed", 100)
    assert set(work.made.values()) == {1}


@covers("B-45")
async def test_more_attempts_reach_those_that_begin_later_and_not_the_one_that_runs(pool: Pool) -> None:
    """What runs is judged by its worker, by the number that it took with the job; retry-failed mends that."""
    bad = {"2024-01-01", "2024-01-02"}
    gates = Gates()
    gates.fails |= bad
    once = Retry(1, base_s=0.01, max_s=0.01)
    async with engine(pool, [daily("days", gates, concurrency=1, retries=once)]) as running:
        one = await running.create("days", 2, concurrency=1, failed_max=2)
        await gates.until(lambda seen: seen.came["2024-01-01"])
        done = await act(pool, "set", one, attempts=3)
        assert "the attempt that runs ends by the number that held when it began" in done.summary
        gates.let()
        await running.over(one)
    assert dict(gates.came) == {"2024-01-01": 1, "2024-01-02": 3}
