"""The last minutes: the same figures as the workers counted, sampled, put together and forgotten in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from starforge.db.pool import Connection
from starforge.queue import minutes
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from starforge.queue.minutes import Minute, compact, lags, last_minutes, prune_minutes, sample
from tests.covers import covers
from tests.queue.test_schedule import freeze

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
# Rounded: the last digit of a sum of fractions depends on the order they were added in.
SUMS = (
    "SELECT minute, queue, type, sum(completed)::int, sum(failed)::int, sum(retried)::int,"
    " sum(quarantined)::int, sum(cancelled)::int, round(sum(ran_ms)::numeric, 6), max(ran_ms_max),"
    " round(sum(waited_ms)::numeric, 6) FROM job_minutes WHERE type <> '' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
)
ROW = (
    "INSERT INTO job_minutes (minute, queue, type, worker_id, completed, failed, retried, quarantined,"
    " cancelled, ran_ms, ran_ms_max, waited_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
)


COUNTS = (
    "completed", "failed", "retried", "quarantined", "cancelled", "ran_ms", "ran_ms_max", "waited_ms",
)  # fmt: skip


async def counted(
    conn: Connection, at: datetime, *, worker: UUID | None = None, job_type: str = "t", **counts: float
) -> None:
    """Count as a finishing statement of a worker does."""
    values = [counts.get(name, 0) for name in COUNTS]
    await conn.execute(ROW, at, "q", job_type, worker or uuid4(), *values)


async def waiting(conn: Connection, at: datetime, jobs: int) -> None:
    """Let this many jobs wait when a minute's sample is taken."""
    await freeze(conn, at)
    await conn.execute("DELETE FROM queue_jobs")
    due = at - timedelta(seconds=90)
    await enqueue_many(conn, [NewJob("t", queue="q", run_after=due) for _ in range(jobs)])
    assert await sample(conn)


@covers("Q-13")
async def test_a_minute_has_what_all_workers_counted_and_what_was_sampled(conn: Connection) -> None:
    for worker in range(3):
        at = NOON - timedelta(minutes=2)
        await counted(conn, at, worker=UUID(int=worker + 1), completed=4, failed=1, retried=2, ran_ms=70)
    await waiting(conn, NOON - timedelta(minutes=2), 5)
    await waiting(conn, NOON - timedelta(minutes=1), 20)
    await freeze(conn, NOON + timedelta(seconds=30))
    lines = await last_minutes(conn, 5)
    assert [line.minute for line in lines] == [NOON - timedelta(minutes=back) for back in (4, 3, 2, 1, 0)]
    busy = lines[2]
    assert (busy.finished, busy.completed, busy.failed, busy.retried) == (21, 12, 3, 6)
    assert busy.failure_share == pytest.approx(9 / 21)
    assert busy.finished_per_s == pytest.approx(21 / 60)
    assert (busy.depth, busy.oldest_s) == (5, 90)
    # The depth grew by 15 while 15 left: 30 came.
    assert busy.enqueued_per_s == pytest.approx(30 / 60)
    assert busy.document()["ran_ms_mean"] == 10
    # What was not sampled is not known; what is over is 60 seconds, and the newest minute is not.
    assert [line.depth for line in lines] == [None, None, 5, 20, None]
    assert [line.seconds for line in lines] == [60, 60, 60, 60, 30]
    assert lines[0].failure_share is None


async def test_a_minute_that_was_sampled_holds_nothing_where_it_says_nothing(conn: Connection) -> None:
    await counted(conn, NOON - timedelta(minutes=2), completed=1)
    await waiting(conn, NOON - timedelta(minutes=1), 0)
    await freeze(conn, NOON)
    (line,) = [line for line in await last_minutes(conn, 3) if line.depth is not None]
    assert (line.minute, line.type, line.depth) == (NOON - timedelta(minutes=1), "t", 0)


async def test_a_minute_is_sampled_once_and_only_jobs_that_are_due_count(conn: Connection) -> None:
    await freeze(conn, NOON)
    await enqueue_many(conn, [NewJob("t"), NewJob("t", run_after=NOON + timedelta(hours=1)), NewJob("u")])
    await conn.execute("UPDATE queue_jobs SET status = 'failed' WHERE type = 'u'")
    assert await sample(conn)
    assert not await sample(conn)
    await freeze(conn, NOON + timedelta(seconds=59))
    assert not await sample(conn)
    await freeze(conn, NOON + timedelta(seconds=60))
    assert await sample(conn)
    rows = await conn.fetch("SELECT queue, type, depth FROM job_minutes ORDER BY minute, queue")
    assert [tuple(row) for row in rows] == [("", "", 1), ("default", "t", 1)] * 2


async def test_rows_older_than_an_hour_become_one_with_the_same_sums(conn: Connection) -> None:
    await freeze(conn, NOON)
    await waiting(conn, NOON - timedelta(minutes=90), 3)
    for minute in (-90, -61, -60, -5):
        for worker in range(1, 4):
            at, counts = NOON + timedelta(minutes=minute), dict.fromkeys(("completed", "failed"), worker)
            told: dict[str, Any] = {"ran_ms": 0.1 * worker, "ran_ms_max": worker, "waited_ms": 7.5, **counts}
            await counted(conn, at, worker=UUID(int=worker), retried=1, quarantined=2, cancelled=3, **told)
    await freeze(conn, NOON)
    before = await conn.fetch(SUMS)
    assert await compact(conn) == 6
    assert await compact(conn) == 0
    assert await conn.fetch(SUMS) == before
    per_minute = "SELECT count(*) FROM job_minutes WHERE type = 't' GROUP BY minute ORDER BY minute"
    assert [row[0] for row in await conn.fetch(per_minute)] == [1, 1, 3, 3]
    # The sample of the oldest is still beside its sums, and what comes late is added.
    await counted(conn, NOON - timedelta(minutes=90), worker=UUID(int=9), completed=5)
    assert await compact(conn) == 1
    oldest = "SELECT depth, completed FROM job_minutes WHERE type = 't' ORDER BY minute LIMIT 1"
    row = await conn.fetchrow(oldest)
    assert row is not None
    assert tuple(row) == (3, 11)


async def test_minutes_older_than_a_week_are_forgotten(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minutes, "MINUTES_BATCH", 10)
    await freeze(conn, NOON)
    for days in (8, 6):
        for minute in range(12):
            await counted(conn, NOON - timedelta(days=days, minutes=minute), completed=1)
    assert [await prune_minutes(conn) for _ in range(3)] == [10, 2, 0]
    assert await conn.fetchval("SELECT count(*) FROM job_minutes") == 12


def _line(minute: int, *, depth: int | None, completed: int, enqueued_per_s: float | None) -> Minute:
    at = NOON + timedelta(minutes=minute)
    return Minute(at, "q", "t", 60, completed=completed, depth=depth, enqueued_per_s=enqueued_per_s)


@covers("Q-03")
def test_a_queue_that_does_less_than_comes_is_behind_with_the_time_to_a_limit() -> None:
    (lag,) = lags([_line(n, depth=100 + 60 * n, completed=60, enqueued_per_s=2.0) for n in range(6)])
    assert lag.behind
    assert lag.drained_in_s is None
    assert lag.reaches_in_s(1000) == pytest.approx((1000 - 400) / 1.0)
    (lag,) = lags([_line(n, depth=600 - 60 * n, completed=120, enqueued_per_s=1.0) for n in range(6)])
    assert not lag.behind
    assert lag.drained_in_s == pytest.approx(300)
    assert lag.reaches_in_s(1000) is None


def test_without_samples_nothing_is_said_of_a_lag() -> None:
    assert lags([_line(n, depth=None, completed=60, enqueued_per_s=None) for n in range(6)]) == []


async def test_nothing_at_all_is_an_empty_list(conn: Connection) -> None:
    assert await last_minutes(conn, 60) == []
