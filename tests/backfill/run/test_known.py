"""What a coordinator knows of a backfill is what its rows and the queue's jobs say, whoever changed them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from starforge.backfill.partition.partition import Partition
from starforge.backfill.run import known
from starforge.backfill.scheme.scheme import Window
from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.queue.declare import Retry
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.queue.outcome import Discard, Quarantined, RetryLater, Snooze
from starforge.worker.overdue import Overdue, settle
from tests.backfill.backfills import a_backfill
from tests.backfill.engine import daily, engine
from tests.backfill.gates import Gates, day
from tests.backfill.run.test_coordinate import act, ask, held_by, tick
from tests.covers import covers

HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "SILENT_S", 0.2)
    monkeypatch.setattr(known, "LOOK_S", 0.05)


# ---- attempts that end otherwise than by an error


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("ending", [Discard, Quarantined])
@covers("B-33", "B-24")
async def test_a_handler_that_gives_its_job_up_gives_its_partition_up(
    pool: Pool, ending: type[Exception]
) -> None:
    came: Counter[str] = Counter()

    async def refuse(part: Partition[Window]) -> None:
        came[part.key] += 1
        raise ending("it is not wanted")

    async with engine(pool, [daily("days", refuse)]) as running:
        backfill_id = await running.create("days", 2)
        row = await running.over(backfill_id)
        told = await ask(pool, "SELECT min(error_message) FROM backfill_partitions WHERE state = 'failed'")
    assert (row["state"], row["failed_partitions"]) == ("failed", 2)
    assert came == {day(1): 1, day(2): 1}
    assert "it is not wanted" in told


@pytest.mark.usefixtures("sound")
@covers("B-33", "B-45")
async def test_a_partition_that_asks_for_later_each_time_fails_once_its_attempts_are_used_up(
    pool: Pool,
) -> None:
    came: Counter[str] = Counter()

    async def later(part: Partition[Window]) -> None:
        came[part.key] += 1
        raise RetryLater(0.01, "429 Too Many Requests")

    async with engine(pool, [daily("days", later, retries=2)]) as running:
        backfill_id = await running.create("days", 1)
        row = await running.over(backfill_id)
    assert (row["state"], row["failed_partitions"], came[day(1)]) == ("failed", 1, 3)
    [failure] = row["look"]["failures"]
    assert (failure["message"], failure["count"]) == ("429 Too Many Requests", 3)


@pytest.mark.usefixtures("sound")
@covers("B-33", "G2")
async def test_a_partition_whose_job_was_given_up_with_its_process_fails_with_what_the_job_was_told(
    pool: Pool,
) -> None:
    """As a handler in a thread is that went on past its timeout: only its supervisor can say so."""
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 2)
        await gates.until(lambda seen: seen.came[day(1)])
        assert running.worker_id is not None
        async with pool.connection() as conn:
            job = await conn.fetchrow("SELECT * FROM queue_jobs WHERE status = 'running'")
            assert job is not None
            late = Overdue(
                job["id"],
                job["tenant_id"],
                job["queue"],
                job["type"],
                job["attempts"],
                job["max_attempts"],
                job["lease_epoch"],
                error={"reason": "it went on past its timeout", "error": "TimeoutError"},
                delay_s=0.0,
                final=True,
            )
            assert await settle(conn, [late], worker_id=running.worker_id) == 1
        row = await running.until(backfill_id, lambda row: row["failed_partitions"] == 1)
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["failed_partitions"]) == ("failed", 1, 1)
    [failure] = row["look"]["failures"]
    assert (failure["message"], failure["keys"]) == ("it went on past its timeout", [day(1)])
    assert gates.came[day(1)] == 1


@pytest.mark.usefixtures("sound")
@covers("B-17", "B-15")
async def test_a_pause_does_not_wait_for_partitions_that_were_put_off_and_run_nowhere(pool: Pool) -> None:
    slept: Counter[str] = Counter()

    async def snooze(part: Partition[Window]) -> None:
        slept[part.key] += 1
        if slept[part.key] == 1:
            raise Snooze(HOUR_S, "the source is closed at this time")

    async with engine(pool, [daily("days", snooze)]) as running:
        backfill_id = await running.create("days", 2)
        waits = "SELECT count(*) FROM queue_jobs WHERE status = 'pending' AND run_after > sf_now()"
        async with asyncio.timeout(20):
            while await ask(pool, waits) < 2:
                await asyncio.sleep(0.02)
        await act(pool, "pause", backfill_id)
        await running.until(backfill_id, lambda row: row["worker_id"] is None)
        assert await ask(pool, "SELECT count(*) FROM backfill_partitions WHERE state = 'pending'") == 2
        await ask(pool, "UPDATE queue_jobs SET run_after = sf_now()")
        await act(pool, "resume", backfill_id)
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"]) == ("completed", 2)
    assert slept == {day(1): 2, day(2): 2}


@covers("B-24", "B-17")
async def test_partitions_that_were_put_off_hold_up_none_of_those_behind_them(pool: Pool) -> None:
    early = {day(number) for number in range(1, 7)}

    async def snooze(part: Partition[Window]) -> None:
        if part.key in early:
            raise Snooze(HOUR_S, "the source is closed at this time")

    async with engine(pool, [daily("days", snooze, concurrency=1)]) as running:
        backfill_id = await running.create("days", 10)
        await running.until(backfill_id, lambda row: row["completed_partitions"] == 4)
        await act(pool, "cancel", backfill_id, reason="seen")
        await running.over(backfill_id)


@pytest.mark.usefixtures("sound")
@covers("B-49", "B-19")
async def test_the_estimate_learns_for_how_long_retries_wait(pool: Pool) -> None:
    """With a minute between two attempts a backfill of which some fail takes longer than its work."""
    minute: dict[str, Any] = {"retries": Retry(attempts=3, base_s=60.0, max_s=60.0)}

    async def fail(part: Partition[Window]) -> None:
        if part.key in (day(1), day(2)):
            raise ValueError("not yet")

    async with engine(pool, [daily("days", fail, **minute)]) as running:
        backfill_id = await running.create("days", 6)
        row = await running.until(
            backfill_id,
            lambda row: row["completed_partitions"] == 4 and row["eta_state"]["retried"][2] > 0,
        )
        waits = "SELECT sum(extract(epoch FROM run_after - updated_at)) FROM queue_jobs WHERE attempts = 1"
        assert row["eta_state"]["retried"][2] == pytest.approx(float(await ask(pool, waits)), abs=4.0)
        await act(pool, "cancel", backfill_id, reason="seen")
        await running.over(backfill_id)


@covers("B-19", "B-49")
async def test_where_nothing_else_was_kept_the_mean_duration_gives_the_first_estimate(pool: Pool) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create(
            "days", 20, state="paused", completed_partitions=2, avg_partition_duration_ms=60_000.0
        )
        await ask(
            pool, "UPDATE backfill_partitions SET state = 'completed' WHERE partition_key <= $1", day(2)
        )
        await act(pool, "resume", backfill_id)
        row = await running.until(backfill_id, lambda row: row["estimated_completion_at"] is not None)
        left_s = (row["estimated_completion_at"] - row["updated_at"]).total_seconds()
        assert left_s == pytest.approx(18 * 60, rel=0.5)
        assert row["completed_partitions"] == 2
        gates.let()
        await running.over(backfill_id)


@covers("B-24", "G3")
async def test_an_attempt_that_begins_as_its_partition_is_given_back_goes_on(pool: Pool) -> None:
    """The job waited when it was looked at, and its next attempt had begun by when the row was free."""
    async with pool.connection() as conn, pool.connection() as other:
        backfill_id = await a_backfill(conn, "running", "running")
        job = await enqueue(conn, NewJob("asset:daily", {}, queue="backfill"))
        await conn.execute("UPDATE backfill_partitions SET queue_job_id = $1", job.id)
        async with conn.transaction():
            await conn.execute("UPDATE queue_jobs SET status = 'running'")
            await conn.execute("UPDATE backfill_partitions SET attempt_count = attempt_count + 1")
            giving = asyncio.create_task(other.fetch(sql("backfill", "orphans"), backfill_id, [1]))
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(20):
                while not await conn.fetchval(waits):
                    await asyncio.sleep(0.01)
        assert await giving == []
        assert await conn.fetchval("SELECT state FROM backfill_partitions") == "running"


# ---- what is kept for whoever follows


@pytest.mark.usefixtures("sound")
@covers("B-37", "B-17")
async def test_what_the_breaker_counted_is_gone_on_with_by_the_next_coordinator(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_BREAKER_MIN", "6")
    gates = Gates()
    gates.fails = {day(number) for number in range(1, 12)}
    async with engine(pool, [daily("days", gates, retries=0, concurrency=1)], coordinators=0) as running:
        backfill_id = await running.create("days", 12, failed_max=12)

        async def failed(number: int) -> None:
            """Let so many fail, and have them counted."""
            gates.let(*(day(each) for each in range(1, number + 1)))
            async with asyncio.timeout(20):
                while (await running.row(backfill_id))["failed_partitions"] < number:
                    await tick(pool, hold)
                    await asyncio.sleep(0.02)

        _, hold = await held_by(pool, running)
        await failed(4)
        await ask(pool, "UPDATE workers SET state = 'dead' WHERE id = $1", hold.worker_id)
        _, hold = await held_by(pool, running)
        await failed(6)
        row = await running.row(backfill_id)
        assert (row["state"], row["state_by"]) == ("paused", "breaker"), "four of these are the first one's"
        assert "6 of 6 attempts failed" in row["state_reason"]
        gates.let()
        await act(pool, "cancel", backfill_id, reason="seen")
        await ask(pool, "UPDATE workers SET state = 'dead' WHERE id = $1", hold.worker_id)
        running.coordinate()
        await running.over(backfill_id)


@pytest.mark.usefixtures("sound")
@covers("B-22", "B-17")
async def test_what_failed_before_a_resume_no_longer_counts_for_the_breaker(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_BREAKER_MIN", "6")
    gates = Gates()
    gates.fails = {day(number) for number in range(1, 8)}
    async with engine(pool, [daily("days", gates, retries=0, concurrency=1)]) as running:
        backfill_id = await running.create("days", 9, failed_max=9)
        gates.let(*(day(number) for number in range(1, 5)))
        await running.until(backfill_id, lambda row: row["failed_partitions"] == 4)
        await act(pool, "pause", backfill_id)
        gates.let(*gates.fails)
        await running.until(backfill_id, lambda row: row["worker_id"] is None)
        await act(pool, "resume", backfill_id)
        row = await running.until(backfill_id, lambda row: row["failed_partitions"] == 7)
        assert row["state"] == "running"
        gates.let()
        assert (await running.over(backfill_id))["state"] == "completed"


# ---- rows that were changed by hand


@pytest.mark.usefixtures("sound")
@covers("B-35", "X-14", "D-14")
async def test_a_completed_partition_that_was_set_back_by_hand_is_made_again_and_the_backfill_ends(
    pool: Pool,
) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 4)
        gates.let(day(1), day(2))
        await running.until(backfill_id, lambda row: row["completed_partitions"] == 2)
        # As who knows of reopened_at does, so that the checkpoint may have passed it.
        back = "UPDATE backfill_partitions SET state = 'pending', reopened_at = sf_now()"
        await ask(pool, f"{back} WHERE partition_key = $1", day(1))
        gates.let()
        row = await running.over(backfill_id)
    assert (row["state"], row["completed_partitions"], row["total_partitions"]) == ("completed", 4, 4)
    assert gates.passed == {day(1): 2, day(2): 1, day(3): 1, day(4): 1}


@covers("B-35", "X-14", "B-37")
async def test_another_coordinator_goes_on_where_somebody_deleted_what_was_completed(pool: Pool) -> None:
    """The partition of the checkpoint is gone, and so is one of which an end waits to be counted."""
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=1)]) as running:
        backfill_id = await running.create("days", 4)
        gates.let(day(1), day(2))
        await running.until(backfill_id, lambda row: row["completed_partitions"] == 2)
        await gates.until(lambda seen: seen.came[day(3)])
        await ask(pool, "DELETE FROM backfill_partitions WHERE state = 'completed'")
        await ask(
            pool,
            "INSERT INTO backfill_ended (backfill_job_id, tenant_id, ordinal, outcome, attempt_count)"
            " VALUES ($1, 'default', $2, 'completed', 1)",
            backfill_id,
            running.first,
        )
        await act(pool, "reclaim", backfill_id)
        gates.let()
        row = await running.over(backfill_id)
    assert row["state"] == "completed"
    assert gates.passed == {day(1): 1, day(2): 1, day(3): 1, day(4): 1}


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("nowhere", [1, 1_000_000])
@covers("B-35", "D-14", "X-14", "G7")
async def test_a_checkpoint_that_is_no_partition_hides_none_that_is_open(pool: Pool, nowhere: int) -> None:
    gates = Gates()
    async with engine(pool, [daily("days", gates, concurrency=2)]) as running:
        backfill_id = await running.create("days", 4, checkpoint_ordinal=nowhere)
        await gates.until(lambda seen: seen.came[day(1)] and seen.came[day(2)])
        gates.let(day(2))
        row = await running.until(backfill_id, lambda row: row["completed_partitions"] == 1)
        assert row["checkpoint_ordinal"] is None, "the first one runs"
        gates.let()
        await running.over(backfill_id)


@pytest.mark.usefixtures("sound")
@covers("B-12", "X-14")
async def test_a_resume_by_hand_ends_the_plan_of_an_earlier_pause(pool: Pool) -> None:
    """Else a pause of later, by its breaker say, would end at a time that was meant for another one."""
    gates = Gates(open=True)
    async with engine(pool, [daily("days", gates)]) as running:
        backfill_id = await running.create("days", 1, state="paused")
        await act(pool, "pause", backfill_id, resume_in="2h")
        await ask(
            pool,
            "UPDATE backfill_jobs SET state = 'resuming', heartbeat_at = now() - interval '121 seconds',"
            " version = version + 1 WHERE id = $1 AND state = 'paused'",
            backfill_id,
        )
        row = await running.over(backfill_id)
    assert row["resume_at"] is None
