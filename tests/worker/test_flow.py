"""Flow control in workers: limits and rates over processes that are killed, and changes without a restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest

from starforge.clock import monotonic_s, randomness
from starforge.db.pool import Connection, Pool
from starforge.queue import flow
from starforge.queue import limit as limits
from starforge.queue.declare import Limit, Rate
from starforge.queue.enqueue import enqueue_many
from starforge.queue.gate import close, end
from starforge.queue.handler import Context, JobType
from starforge.queue.job import NewJob
from starforge.queue.override import NONE, OverrideScope, override, reset
from starforge.worker.run import Runner
from tests.covers import covers
from tests.worker.limited import PACE, PER_KEY, TOTAL
from tests.worker.test_run import until, working
from tests.worker.test_supervise import a_worker, db

__all__ = ["db"]

APP = "tests.worker.limited:app"
HISTORY = "SELECT count(*) FROM job_history"
SAID: dict[str, Any] = {"owner": "ann", "reason": "storm", "minutes": 5}


class Held:
    """Jobs that run until the test lets them end."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self._may_end = asyncio.Semaphore(0)

    async def run(self, _ctx: Context, _payload: Mapping[str, Any]) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await self._may_end.acquire()
        self.running -= 1

    async def end(self, jobs: int) -> None:
        """Let so many end, and wait until they have."""
        left = self.running - jobs
        ended = asyncio.Event()
        for _ in range(jobs):
            self._may_end.release()
        asyncio.get_running_loop().call_soon(ended.set)
        await ended.wait()
        assert left >= 0

    async def settled(self, running: int) -> None:
        """Wait until so many run, and see that there are no more a little later."""
        async with asyncio.timeout(15):
            while self.running != running:
                await asyncio.sleep(0.01)
        for _ in range(5):
            await asyncio.sleep(0.02)
            assert self.running == running


async def said(pool: Pool, runner: Runner, scope: OverrideScope, name: str, setting: str, value: Any) -> None:
    """Override a setting and let the worker hear of it, as its listener would."""
    async with pool.connection() as conn:
        if value is None:
            await reset(conn, scope, name, setting)
        else:
            await override(conn, scope, name, setting, value, **SAID)
    runner.announce("*")


@covers("F-26", "Q-34", "O-28")
async def test_concurrency_is_changed_to_any_value_while_jobs_run(pool: Pool) -> None:
    held = Held()
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("held") for _ in range(40)])
    async with working(pool, JobType("held", held.run), concurrency=4) as runner:
        await held.settled(4)
        await said(pool, runner, "all", "", "concurrency", 1)
        await held.end(3)
        await held.settled(1)
        await held.end(1)
        await held.settled(1)
        await said(pool, runner, "all", "", "concurrency", 0)
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'running'", 1)
        await held.end(1)
        await held.settled(0)
        await said(pool, runner, "all", "", "concurrency", 7)
        await held.settled(7)
        await said(pool, runner, "all", "", "concurrency", None)
        await held.end(5)
        await held.settled(4)
        await said(pool, runner, "all", "", "concurrency", 9)
        await held.settled(9)
        await held.end(9)
        await held.settled(9)
        await said(pool, runner, "all", "", "concurrency", 0)
        await held.end(9)
    assert held.most == 9


@covers("F-26", "G8")
async def test_a_worker_all_of_whose_slots_are_busy_hears_of_more_slots_all_the_same(pool: Pool) -> None:
    """Nobody announces it, and none of its jobs ends."""
    held = Held()
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("held") for _ in range(5)])
    async with working(pool, JobType("held", held.run), concurrency=1):
        await held.settled(1)
        async with pool.connection() as conn:
            await override(conn, "all", "", "concurrency", 3, **SAID)
        started_s = monotonic_s()
        await held.settled(3)
        assert monotonic_s() - started_s < 5
        await held.end(3)
        await held.settled(2)
        await held.end(2)


@covers("J-33")
async def test_a_timeout_set_at_run_time_ends_what_starts_from_then_on(pool: Pool) -> None:
    async def sleeps(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        await asyncio.sleep(60)

    async with working(pool, JobType("slow", sleeps)) as runner:
        await said(pool, runner, "type", "slow", "timeout", 0.05)
        await until(pool, "SELECT count(*) FROM setting_overrides", 1)
        await _until_obeyed(runner)
        async with pool.connection() as conn:
            await enqueue_many(conn, [NewJob("slow", max_attempts=1)])
        await until(pool, "SELECT status FROM queue_jobs", "failed")
    async with pool.connection() as conn:
        assert (
            await conn.fetchval("SELECT last_error ->> 'reason' FROM queue_jobs") == "no result within 0.05 s"
        )


async def _until_obeyed(runner: Runner) -> None:
    async with asyncio.timeout(10):
        while runner.flow.overrides == NONE:
            await asyncio.sleep(0.01)


@covers("F-32", "Q-37")
async def test_lowered_attempts_give_up_new_jobs_sooner_and_spare_older_ones(pool: Pool) -> None:
    async def fails(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        raise ValueError("no")

    later = "INSERT INTO queue_jobs (type, payload, max_attempts) VALUES ('bad', '{\"new\": true}', 4)"
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("bad", {"new": False}, max_attempts=4)])
        await override(conn, "type", "bad", "attempts", 2, **SAID)
        await override(conn, "type", "bad", "backoff", {"base_s": 0.0, "max_s": 0.0}, **SAID)
        await conn.execute(later)
    async with working(pool, JobType("bad", fails)):
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'failed'", 2)
    async with pool.connection() as conn:
        rows = await conn.fetch(
            "SELECT payload ->> 'new' AS new, attempts, last_error FROM queue_jobs ORDER BY 1"
        )
    assert [(row["new"], row["attempts"]) for row in rows] == [("false", 4), ("true", 2)]
    assert [row["last_error"].get("attempts_lowered_to") for row in rows] == [None, 2]


async def test_a_worker_gives_its_tokens_back_when_idle_and_when_it_ends(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_S", 0.1)
    held = Held()
    tokens = "SELECT count(*) FROM limit_tokens"
    async with working(pool, JobType("held", held.run, limit=Limit(total=5))) as runner:
        async with pool.connection() as conn:
            await enqueue_many(conn, [NewJob("held") for _ in range(3)])
        runner.announce("*")
        await held.settled(3)
        await held.end(1)
        await until(pool, tokens, 2)
        await held.end(2)
        await until(pool, tokens, 0)
        monkeypatch.setattr(limits, "IDLE_S", 3600.0)
        async with pool.connection() as conn:
            await enqueue_many(conn, [NewJob("held") for _ in range(2)])
        runner.announce("*")
        await held.settled(2)
        await held.end(2)
        await until(pool, HISTORY, 5)
        assert await _value(pool, tokens) >= 2
    assert await _value(pool, tokens) == 0


async def _value(pool: Pool, query: str) -> Any:
    async with pool.connection() as conn:
        return await conn.fetchval(query)


async def _nothing(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


@pytest.mark.parametrize(
    "limit", [Limit(total=1), Limit(per_worker=1), Limit(per_key=1, key="k")], ids=["all", "worker", "key"]
)
async def test_a_freed_place_under_a_limit_is_taken_at_once_and_not_at_the_next_poll(
    pool: Pool, limit: Limit
) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t", limit_key="k") for _ in range(100)])
    started_s = monotonic_s()
    async with working(pool, JobType("t", _nothing, limit=limit), poll_s=30.0):
        await until(pool, HISTORY, 100)
    assert monotonic_s() - started_s < 15


@covers("J-34")
async def test_a_worker_wakes_for_the_next_permit_and_not_before(pool: Pool) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("t") for _ in range(40)])
    started_s = monotonic_s()
    async with working(pool, JobType("t", _nothing, rate=Rate(50.0)), poll_s=30.0):
        await until(pool, HISTORY, 40)
    assert 39 / 50 <= monotonic_s() - started_s < 10


async def test_what_is_at_its_limit_keeps_nothing_else_waiting(pool: Pool) -> None:
    held = Held()
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("held", priority=9) for _ in range(50)])
        await enqueue_many(conn, [NewJob("t") for _ in range(500)])
    one = JobType("held", held.run, limit=Limit(total=1))
    async with working(pool, one, JobType("t", _nothing), concurrency=2) as runner:
        await until(pool, HISTORY, 500)
        assert held.most == 1
        await said(pool, runner, "all", "", "concurrency", 0)
        await held.end(1)


async def _killed(stack: AsyncExitStack, workers: list[Any], database: str, **environment: str) -> None:
    """Kill a worker's whole group and start another."""
    victim = workers.pop(randomness.randrange(len(workers)))
    os.killpg(victim.pid, signal.SIGKILL)
    await victim.wait()
    workers.append(await stack.enter_async_context(a_worker(database, APP, **environment)))


async def _spans(db: Connection) -> list[tuple[float, float, str]]:
    """When each run began and ended, with its key; a run ends with its worker's lease at the latest."""
    rows = await db.fetch(
        """
        SELECT extract(epoch FROM s.at)::float8 AS began,
               extract(epoch FROM least(e.at, w.stopped_at))::float8 AS ended,
               coalesce(h.payload ->> 'key', '') AS key
        FROM marks AS s
        JOIN job_history AS h ON h.id = s.job_id
        JOIN workers AS w ON w.id = s.worker_id
        LEFT JOIN marks AS e ON e.what = 'end' AND (e.job_id, e.worker_id) = (s.job_id, s.worker_id)
        WHERE s.what = 'start'
        """
    )
    assert all(row["ended"] is not None for row in rows)
    return [(row["began"], row["ended"], row["key"]) for row in rows]


def _most_at_once(spans: list[tuple[float, float, str]]) -> int:
    steps = sorted([(began, 1) for began, _, _ in spans] + [(ended, -1) for _, ended, _ in spans])
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


@pytest.mark.parametrize("lost", ["killed", "frozen"])
@covers("Q-47", "G2")
async def test_four_workers_never_run_more_than_a_global_limit_whatever_becomes_of_them(
    db: Connection, database: str, lost: str
) -> None:
    """Killed: with their whole group, in the middle of jobs. Frozen: for longer than their lease."""
    environment = {"STARFORGE_LEASE_S": "2", "WORKER_CONCURRENCY": "4", "PG_POOL_MAX": "4"}
    jobs = [NewJob("limited.total", {"seconds": 0.05}) for _ in range(120)]
    jobs += [
        NewJob("limited.keyed", {"key": f"k{n % 3}", "seconds": 0.05}, limit_key=f"k{n % 3}")
        for n in range(90)
    ]
    randomness.shuffle(jobs)
    await enqueue_many(db, jobs)
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(a_worker(database, APP, **environment)) for _ in range(4)]
        for done in (20, 60, 100):
            await _until_at_least(db, HISTORY, done)
            if lost == "killed":
                await _killed(stack, workers, database, **environment)
            else:
                await _frozen(db, randomness.choice(workers).pid)
        await _until_at_least(db, HISTORY, len(jobs))
    spans = await _spans(db)
    assert len(spans) >= len(jobs)
    assert _most_at_once([span for span in spans if not span[2]]) == TOTAL
    for key in ("k0", "k1", "k2"):
        assert _most_at_once([span for span in spans if span[2] == key]) <= PER_KEY


async def _frozen(db: Connection, pid: int) -> None:
    """Stop a worker's group for longer than its lease; what it runs then stands still."""
    os.killpg(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            gone = "SELECT bool_and(state <> 'running') FROM workers WHERE pid = $1"
            while not await db.fetchval(gone, pid):
                await asyncio.sleep(0.02)
    finally:
        os.killpg(pid, signal.SIGCONT)


async def _until_at_least(db: Connection, query: str, wanted: int) -> None:
    async with asyncio.timeout(60):
        while await db.fetchval(query) < wanted:
            await asyncio.sleep(0.02)


@covers("J-34")
async def test_four_workers_together_keep_to_a_rate_and_use_it(db: Connection, database: str) -> None:
    """By any time after the first start there were never more starts than burst + rate · time."""
    jobs = 160
    environment = {"PG_POOL_MAX": "4", "WORKER_CONCURRENCY": "4"}
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(a_worker(database, APP, **environment))
        await _until_at_least(db, "SELECT count(*) FROM workers WHERE state = 'running'", 4)
        began = await db.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        await enqueue_many(db, [NewJob("limited.paced") for _ in range(jobs)])
        await _until_at_least(db, HISTORY, jobs)
    rows = await db.fetch(
        "SELECT extract(epoch FROM at)::float8 AS at FROM marks WHERE what = 'start' ORDER BY at"
    )
    times = [row["at"] - began for row in rows]
    assert len(times) == jobs
    for number, at_s in enumerate(times, 1):
        assert number <= PACE.burst + PACE.per_s * (at_s + 0.2), (
            "0.2 s: what was enqueued before it was asked for"
        )
    assert (jobs - PACE.burst) / PACE.per_s * 0.9 <= times[-1]


@covers("G8", "Q-47", "X-11")
async def test_a_pause_holds_on_all_live_workers_within_five_seconds_and_ends_as_soon(
    db: Connection, database: str
) -> None:
    """One of them listens, the other has too few connections for that."""
    jobs = [NewJob("limited.free", {"seconds": 0.01}) for _ in range(3000)]
    async with (
        a_worker(database, APP, WORKER_CONCURRENCY="2"),
        a_worker(database, APP, WORKER_CONCURRENCY="2", PG_POOL_MAX="3"),
    ):
        await _until_at_least(db, "SELECT count(*) FROM workers WHERE state = 'running'", 2)
        await enqueue_many(db, jobs)
        await _until_at_least(db, "SELECT count(DISTINCT worker_id) FROM marks", 2)
        await close(db, "type", "limited.free", **SAID)
        paused_at = await db.fetchval("SELECT clock_timestamp()")
        await _until_quiet(db)
        last: Any = await db.fetchval("SELECT max(at) FROM marks WHERE what = 'start'")
        assert (last - paused_at).total_seconds() < 5
        assert await db.fetchval("SELECT count(*) FROM queue_jobs WHERE status = 'pending'") > 0
        await end(db, "type", "limited.free")
        resumed_at = await db.fetchval("SELECT clock_timestamp()")
        query = "SELECT count(DISTINCT worker_id) FROM marks WHERE at > $1"
        async with asyncio.timeout(30):
            while await db.fetchval(query, resumed_at) < 2:
                await asyncio.sleep(0.02)
        first = await db.fetch(
            "SELECT worker_id, min(at) AS at FROM marks WHERE at > $1 GROUP BY 1", resumed_at
        )
        assert max((row["at"] - resumed_at).total_seconds() for row in first) < 5


async def _until_quiet(db: Connection) -> None:
    """Wait until nothing has run for a while."""
    seen: tuple[int, float] = (-1, 0.0)
    async with asyncio.timeout(60):
        while monotonic_s() - seen[1] < 2.5 or seen[0] < 0:
            marks: int = await db.fetchval("SELECT count(*) FROM marks")
            if marks != seen[0]:
                seen = (marks, monotonic_s())
            await asyncio.sleep(0.02)


@covers("F-26")
async def test_one_workers_concurrency_is_changed_and_the_others_are_not(
    db: Connection, database: str
) -> None:
    async with (
        a_worker(database, APP, WORKER_CONCURRENCY="2"),
        a_worker(database, APP, WORKER_CONCURRENCY="2"),
    ):
        await _until_at_least(db, "SELECT count(*) FROM workers WHERE state = 'running'", 2)
        ids: list[UUID] = [row["id"] for row in await db.fetch("SELECT id FROM workers ORDER BY id")]
        await override(db, "worker", str(ids[0]), "concurrency", 0, **SAID)
        await override(db, "worker", str(ids[1]), "concurrency", 5, **SAID)
        await _until_at_least(db, "SELECT CASE WHEN count(*) = 2 THEN 1 ELSE 0 END FROM setting_overrides", 1)
        for _ in range(int(2 * flow.READ_S / 0.05)):
            await asyncio.sleep(0.05)
        await enqueue_many(db, [NewJob("limited.free", {"seconds": 60.0}) for _ in range(10)])
        running = "SELECT count(*) FROM marks WHERE worker_id = $1"
        async with asyncio.timeout(20):
            while await db.fetchval(running, ids[1]) < 5:
                await asyncio.sleep(0.02)
        assert await db.fetchval(running, ids[0]) == 0
        assert await db.fetchval("SELECT count(*) FROM marks") == 5
