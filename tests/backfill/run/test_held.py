"""What a coordinator does with a backfill: it pauses, goes on, ends and gives up as it is told or ruled."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from starforge.backfill.run import feed, known
from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.queue.declare import Retry
from tests.backfill.engine import daily, engine
from tests.backfill.gates import Gates, day
from tests.backfill.run.test_coordinate import act, ask, held_by, tick
from tests.covers import covers

pytestmark = pytest.mark.usefixtures("sound")

ONCE: dict[str, Any] = {"retries": 0}
SOON = Retry(attempts=3, base_s=0.01, max_s=0.02)


async def states(pool: Pool, backfill_id: UUID) -> dict[str, list[str]]:
    """Return the keys of a backfill's partitions by their states."""
    async with pool.connection() as conn:
        rows = await conn.fetch(
            "SELECT state, array_agg(partition_key ORDER BY ordinal) AS keys FROM backfill_partitions"
            " WHERE backfill_job_id = $1 GROUP BY state",
            backfill_id,
        )
    return {row["state"]: row["keys"] for row in rows}


@covers("B-17", "B-20", "B-21", "B-22", "D-04", "D-14", "G7")
async def test_a_pause_lets_what_runs_end_starts_no_other_and_a_resume_runs_exactly_the_rest(
    pool: Pool,
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 8)
        gates.let(day(1), day(3))
        await gates.until(lambda seen: {day(2), day(4)} <= set(seen.came) or seen.came[day(3)])
        gates.let(day(2))
        await running.until(backfill_id, lambda row: row["completed_partitions"] == 3)
        await gates.until(lambda seen: seen.came[day(4)] and seen.came[day(5)])
        await act(pool, "pause", backfill_id)
        gates.let(day(5))
        row = await running.until(backfill_id, lambda row: row["completed_partitions"] == 4)
        assert (row["state"], row["checkpoint_partition_key"]) == ("paused", day(3)), "not over a gap"
        assert row["worker_id"] is not None, "the fourth runs still"
        gates.let(day(4))
        paused = await running.until(backfill_id, lambda row: row["worker_id"] is None)
        assert (paused["state"], paused["completed_partitions"]) == ("paused", 5)
        assert paused["checkpoint_partition_key"] == day(5)
        async with asyncio.timeout(20):
            while await ask(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'pending'"):
                await asyncio.sleep(0.01)
        assert set(gates.came) == {day(n) for n in range(1, 6)}
        gates.let()
        await act(pool, "resume", backfill_id)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 8)
    assert gates.came == {day(n): 1 for n in range(1, 9)}


@covers("B-28", "B-27", "D-03", "B-03")
async def test_a_cancel_lets_what_runs_end_and_be_counted_and_cancels_all_that_waits(pool: Pool) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 30)
        await gates.until(lambda seen: len(seen.came) == 2)
        await act(pool, "cancel", backfill_id, reason="no use")
        row = await running.until(backfill_id, lambda row: row["cancelled_partitions"] == 28)
        assert (row["state"], row["closed_at"]) == ("cancelled", None), "two of them run still"
        gates.fails.add(day(2))
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["error_message"]) == (
        "cancelled",
        1,
        "cancelled by ann: no use",
    )
    assert await states(pool, backfill_id) == {
        "completed": [day(1)],
        "cancelled": [f"2024-01-{n:02}" for n in range(2, 31)],
    }
    assert set(gates.came) == {day(1), day(2)}


@covers("B-28", "D-03")
@pytest.mark.parametrize("state", ["pending", "paused"])
async def test_a_cancelled_backfill_that_nobody_held_is_settled_by_the_next_who_looks(
    pool: Pool, state: str
) -> None:
    gates = Gates(open=True)
    async with engine(pool, [daily("days", gates)], coordinators=0) as running:
        backfill_id = await running.create("days", 40, state=state)
        await act(pool, "cancel", backfill_id, reason="no use")
        running.coordinate()
        row = await running.over(backfill_id)
    assert (row["cancelled_partitions"], gates.came) == (40, {})


@covers("B-27", "B-26")
async def test_what_waits_for_an_upstream_begins_when_that_is_completed(pool: Pool) -> None:
    gates = Gates()
    async with engine(pool, [daily("up", gates), daily("down", gates)]) as running:
        up = await running.create("up", 2)
        down = await running.create("down", 2, waits_for=[up], priority=9)
        gates.let(day(1))
        row = await running.until(up, lambda row: row["completed_partitions"] == 1)
        seen = row["updated_at"]
        await running.until(up, lambda row: row["updated_at"] > seen + timedelta(seconds=1.5))
        assert (await running.row(down))["state"] == "pending"
        gates.let()
        rows = [await running.over(each) for each in (up, down)]
    assert [row["state"] for row in rows] == ["completed", "completed"]
    assert rows[0]["closed_at"] <= rows[1]["started_at"]


@covers("B-27", "B-22", "B-23")
async def test_a_pause_and_a_resume_do_not_end_the_wait_for_an_upstream(pool: Pool) -> None:
    gates = Gates()
    async with engine(pool, [daily("up", gates), daily("down", gates)], coordinators=0) as running:
        up = await running.create("up", 2)
        down = await running.create("down", 2, waits_for=[up], priority=9)
        await act(pool, "pause", down)
        await act(pool, "resume", down)
        running.coordinate()
        await gates.until(lambda seen: seen.came)
        gates.let()
        rows = [await running.over(each) for each in (up, down)]
    assert [row["state"] for row in rows] == ["completed", "completed"]
    assert rows[0]["closed_at"] <= rows[1]["started_at"]


@pytest.mark.parametrize("how", ["fails", "cancelled"])
@covers("B-27")
async def test_what_waits_for_an_upstream_that_is_not_completed_is_cancelled_to_the_last(
    pool: Pool, how: str
) -> None:
    gates = Gates()
    gates.fails.add(day(1))
    assets = [daily(name, gates, **ONCE) for name in ("up", "down", "far", "other")]
    async with engine(pool, assets) as running:
        up = await running.create("up", 1)
        down = await running.create("down", 2, waits_for=[up])
        far = await running.create("far", 3, waits_for=[down])
        other = await running.create("other", 3, waits_for=[])
        await gates.until(lambda seen: seen.came)
        if how == "cancelled":  # by hand: the operation takes those that wait with it
            await ask(
                pool, "UPDATE backfill_jobs SET state = 'cancelled', version = version + 1 WHERE id = $1", up
            )
        gates.let()
        rows = [await running.over(each) for each in (down, far)]
        assert (await running.over(up))["state"] == {"fails": "failed", "cancelled": "cancelled"}[how]
        assert (await running.over(other))["cancelled_partitions"] == 0
    assert [(row["state"], row["cancelled_partitions"]) for row in rows] == [
        ("cancelled", 2),
        ("cancelled", 3),
    ]
    assert str(up) in rows[0]["error_message"]


@pytest.mark.parametrize(("failed_max", "state"), [(1, "failed"), (2, "completed")])
@covers("B-03", "D-03")
async def test_a_backfill_is_completed_with_as_many_failed_partitions_as_it_tolerates_and_no_more(
    pool: Pool, failed_max: int, state: str
) -> None:
    gates = Gates(open=True)
    gates.fails |= {day(2), day(5)}
    async with engine(pool, [daily("days", gates, **ONCE)]) as running:
        backfill_id = await running.create("days", 5, failed_max=failed_max)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["failed_partitions"]) == (state, 3, 2)
    assert (row["error_message"] is None) == (state == "completed")
    assert row["checkpoint_partition_key"] == day(5)


@pytest.mark.parametrize("well", [True, False])
@covers("B-67")
async def test_the_canary_runs_alone_and_the_rest_follows_it_or_a_resume(pool: Pool, well: bool) -> None:
    gates = Gates()
    gates.fails |= set() if well else {day(2)}
    async with engine(pool, [daily("days", gates, **ONCE)]) as running:
        backfill_id = await running.create("days", 12, canary_partitions=2, failed_max=1)
        gates.let(day(1))
        await running.until(backfill_id, lambda row: row["completed_partitions"] == 1)
        assert await ask(pool, "SELECT count(*) FROM queue_jobs") == 1
        assert set(gates.came) == {day(1), day(2)}
        gates.let()
        if not well:
            row = await running.until(backfill_id, lambda row: row["worker_id"] is None)
            assert (row["state"], row["state_by"], len(gates.came)) == ("paused", "canary", 2)
            assert day(2) in row["state_reason"]
            await act(pool, "resume", backfill_id)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 11 + well)
    assert gates.came == {day(n): 1 for n in range(1, 13)}


@covers("B-17", "B-53")
async def test_a_backfill_in_which_too_much_fails_is_paused_and_says_why(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_BREAKER_MIN", "10")
    gates = Gates(open=True)
    gates.fails |= {f"2024-{month:02}-{n:02}" for month in range(1, 13) for n in range(1, 32)}
    async with engine(pool, [daily("days", gates, **ONCE)]) as running:
        backfill_id = await running.create("days", 300)
        row = await running.until(backfill_id, lambda row: row["state"] == "paused" and not row["worker_id"])
        assert row["state_by"] == "breaker"
        assert "attempts failed within" in row["state_reason"]
        assert 10 <= row["failed_partitions"] < 100
        gates.fails.clear()
        await act(pool, "retry-failed", backfill_id)
        await act(pool, "resume", backfill_id)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 300)


@covers("B-03", "D-03")
async def test_a_small_backfill_that_fails_throughout_ends_as_failed_and_is_not_paused_for_nothing(
    pool: Pool,
) -> None:
    gates = Gates(open=True)
    gates.fails |= {day(n) for n in range(1, 31)}
    async with engine(pool, [daily("days", gates, concurrency=30, **ONCE)], concurrency=30) as running:
        backfill_id = await running.create("days", 30)
        row = await running.until(backfill_id, lambda row: row["state"] in ("failed", "paused"))
    assert (row["state"], row["failed_partitions"]) == ("failed", 30)


@pytest.mark.parametrize("counted", [True, False])
@covers("B-43", "B-33")
async def test_what_failed_runs_again_in_place_and_is_counted_once(pool: Pool, counted: bool) -> None:
    gates = Gates(open=True)
    gates.fails |= {day(1), day(4)}
    gates.came[day(6)] = 0
    async with engine(pool, [daily("days", gates, **ONCE)], coordinators=int(counted)) as running:
        backfill_id = await running.create("days", 6, failed_max=6)
        if counted:
            gates._open = False
            gates.let(*(day(n) for n in range(1, 6)))
            await running.until(backfill_id, lambda row: row["failed_partitions"] == 2)
        else:
            running.coordinate()
            gates._open = False
            gates.let(*(day(n) for n in range(1, 6)))
            async with asyncio.timeout(20):
                while await ask(pool, "SELECT count(*) FROM backfill_partitions WHERE state = 'failed'") < 2:
                    await asyncio.sleep(0)
        gates.fails.clear()
        await act(pool, "retry-failed", backfill_id)
        row = await running.until(backfill_id, lambda row: row["completed_partitions"] == 5)
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["failed_partitions"]) == ("completed", 6, 0)
    assert gates.passed == {day(n): 1 for n in range(1, 7)}
    assert gates.came[day(1)] == gates.came[day(4)] == 2


@covers("B-24", "X-14")
async def test_jobs_that_somebody_deleted_are_fed_again(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "SILENT_S", 0.2)
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 10)
        await gates.until(lambda seen: len(seen.came) == 2)
        await ask(pool, "DELETE FROM queue_jobs")
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 10)
    assert set(gates.passed) == {day(n) for n in range(1, 11)}


@covers("B-33", "B-24")
async def test_a_partition_that_fails_is_tried_again_as_often_as_its_backfill_allows(pool: Pool) -> None:
    gates = Gates(open=True)
    gates.fails.add(day(2))
    async with engine(pool, [daily("days", gates, retries=SOON)]) as running:
        backfill_id = await running.create("days", 3, attempts_max=2)
        row = await running.over(backfill_id)
    assert (row["state"], row["failed_partitions"], gates.came[day(2)]) == ("failed", 1, 2)
    assert await ask(pool, "SELECT attempt_count FROM backfill_partitions WHERE state = 'failed'") == 2


@covers("B-28")
async def test_what_waits_of_an_ended_backfill_is_not_looked_for_at_every_tick(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing waits a look reads all of its partitions, while one of them may run for hours."""
    gates, asked = Gates(), []

    def counting(room: str, name: str) -> str:
        asked.append(name)
        return sql(room, name)

    async with engine(pool, [daily("days", gates, concurrency=1)], coordinators=0) as running:
        backfill_id = await running.create("days", 5)
        _, hold = await held_by(pool, running)
        assert await tick(pool, hold)
        await gates.until(lambda seen: seen.came)
        await act(pool, "cancel", backfill_id, reason="no use")
        assert await tick(pool, hold)
        assert await tick(pool, hold)
        assert (await running.row(backfill_id))["cancelled_partitions"] == 4
        monkeypatch.setattr(feed, "sql", counting)
        assert await tick(pool, hold)
        assert asked == []
        assert hold.mind is not None
        hold.mind.swept_s -= feed.SWEEP_S
        assert await tick(pool, hold)
        assert asked == ["drop_pending"]
        gates.let()
        async with asyncio.timeout(20):
            while await tick(pool, hold):
                await asyncio.sleep(0.02)


@covers("B-50")
async def test_each_partitions_end_is_said_once_with_the_backfill_and_what_became_of_it(pool: Pool) -> None:
    gates = Gates(open=True)
    gates.fails.add(day(2))
    with capture_logs() as lines:
        async with engine(pool, [daily("days", gates, retries=SOON)]) as running:
            backfill_id = await running.create("days", 3, failed_max=1)
            await running.over(backfill_id)
    said = [line for line in lines if line["event"].startswith("partition.")]
    assert {line["job_id"] for line in said} == {str(backfill_id)}
    assert Counter(line["event"] for line in said) == {
        "partition.completed": 2,
        "partition.retried": 2,
        "partition.failed": 1,
    }
    bad = [line for line in said if line["event"] != "partition.completed"]
    assert [(line["key"], line["attempt"], line["log_level"]) for line in bad] == [
        (day(2), number, "warning") for number in (1, 2, 3)
    ]
    assert all("is bad" in line["error"] and line["seconds"] >= 0 for line in bad)


@covers("B-35", "X-14")
async def test_a_backfill_of_which_somebody_deleted_partitions_ends_with_those_that_are_left(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "SILENT_S", 0.2)
    monkeypatch.setattr(known, "LOOK_S", 0.05)
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 10)
        await gates.until(lambda seen: len(seen.came) == 2)
        await ask(pool, "DELETE FROM backfill_partitions WHERE state = 'pending' AND ordinal % 2 = 0")
        left = await ask(pool, "SELECT count(*) FROM backfill_partitions")
        last = await ask(pool, "SELECT max(partition_key) FROM backfill_partitions")
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["total_partitions"]) == ("completed", left, left)
    assert row["checkpoint_partition_key"] == last
    assert gates.passed.total() == left
