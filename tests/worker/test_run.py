"""The runner: whatever a handler, its error or its payload is, the other jobs end and the worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import LeasedJob, NewJob
from starforge.worker.claimer import BUFFER_S_MAX
from starforge.worker.registry import Registration, register
from starforge.worker.run import Runner
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import proxied


@asynccontextmanager
async def working(
    pool: Pool, *types: JobType, concurrency: int = 4, poll_s: float = 0.05
) -> AsyncIterator[Runner]:
    """Run a worker's runner in this process under a lease of a minute; it goes on until the block ends."""
    known = JobTypes(types)
    async with pool.connection() as conn:
        worker_id = await register(conn, Registration(("default",), known.names(), concurrency), lease_s=60)
    runner = Runner(pool, known, worker_id, queues=("default",), concurrency=concurrency, poll_s=poll_s)
    running = asyncio.create_task(runner.run(grace_s=1.0, hurry=asyncio.Event()))
    try:
        yield runner
        assert not running.done(), "the worker stopped by itself"
    finally:
        runner.stop()
        await asyncio.wait_for(running, 10)


async def until(pool: Pool, query: str, wanted: Any) -> None:
    async with asyncio.timeout(15), pool.connection() as conn:
        while await conn.fetchval(query) != wanted:
            await asyncio.sleep(0.01)


async def _nothing(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


GOOD = JobType("good", _nothing)
GOOD_DONE = "SELECT count(*) FROM job_history WHERE type = 'good'"
FAILED = "SELECT count(*) FROM queue_jobs WHERE type = 'bad' AND status = 'failed'"


async def _fails(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    raise ValueError("no")


class MuteError(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Panic(BaseException):
    """What libraries written in other languages raise."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncio.CancelledError(), "CancelledError"),
        (SystemExit(2), "2"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Panic("overflow"), "overflow"),
        (ValueError("a\0b"), "a\ufffdb"),
        (ValueError("a\ud800b"), "a\ufffdb"),
        (MuteError(), "MuteError"),
        (BaseExceptionGroup("two", [ValueError("a\0"), SystemExit("\udfff")]), "two (2 sub-exceptions)"),
    ],
    ids=["cancelled", "exit", "interrupt", "panic", "nul", "surrogate", "mute", "group"],
)
@covers("D-10")
async def test_whatever_a_handler_raises_ends_its_attempt_and_nothing_else(
    pool: Pool, error: BaseException, reason: str
) -> None:
    async def fails(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        raise error

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("bad", max_attempts=1))
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, JobType("bad", fails), GOOD):
        await until(pool, FAILED, 1)
        await until(pool, GOOD_DONE, 5)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT reason FROM queue_jobs_dlq") == reason


@pytest.mark.parametrize("waits", [True, False])
async def test_a_handler_that_cancels_its_own_task_harms_neither_the_worker_nor_the_next_job(
    pool: Pool, waits: bool
) -> None:
    """Where it does not wait, the cancellation is still on its way when the handler is through."""

    async def cancels(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if waits:
            await asyncio.sleep(0)

    async def sleeps(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)

    async with pool.connection() as conn:
        for _ in range(3):
            await enqueue(conn, NewJob("bad", max_attempts=1))
            await enqueue(conn, NewJob("good", max_attempts=1))
    async with working(pool, JobType("bad", cancels), JobType("good", sleeps), concurrency=1):
        await until(pool, FAILED if waits else "SELECT count(*) FROM job_history WHERE type = 'bad'", 3)
        await until(pool, GOOD_DONE, 3)


@pytest.mark.parametrize(
    "payload",
    ["[]", '"x"', "null", "7", '{"n": 1e5000}', f'{{"n": 1{"0" * 5000}}}', "[" * 3000 + "]" * 3000],
    ids=["list", "text", "null", "number", "beyond floats", "beyond integers", "deep"],
)
async def test_a_payload_made_by_hand_that_no_handler_can_take_fails_its_job_alone_and_at_once(
    pool: Pool, payload: str
) -> None:
    async with pool.connection() as conn:
        insert = "INSERT INTO queue_jobs (type, payload) VALUES ('bad', $1::text::jsonb)"
        await conn.execute(insert, payload)
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, JobType("bad", _nothing), GOOD):
        await until(pool, GOOD_DONE, 5)
        await until(pool, FAILED, 1)
    async with pool.connection() as conn:
        assert (await conn.fetchval("SELECT reason FROM queue_jobs_dlq")).startswith("the payload ")


@pytest.mark.parametrize(
    "change",
    [
        "run_after = '-infinity'",
        "run_after = '4000-01-01 BC'",
        "created_at = 'infinity'",
        "priority = -2147483648",
    ],
)
async def test_a_job_that_was_set_by_hand_to_what_python_cannot_hold_is_run_all_the_same(
    pool: Pool, change: str
) -> None:
    async with pool.connection() as conn:
        await enqueue(conn, NewJob("good"))
        await conn.execute(f"UPDATE queue_jobs SET {change}")
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, GOOD):
        await until(pool, GOOD_DONE, 6)


async def test_an_outcome_that_the_database_refuses_holds_its_job_back_and_no_other(pool: Pool) -> None:
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("bad", {"n": n}, max_attempts=1) for n in range(9)])
        full = "UPDATE queue_jobs SET attempts = 2147483647 WHERE payload = '{\"n\": 4}'"
        await conn.execute(full)  # one more does not fit
    async with working(pool, JobType("bad", _fails)):
        await until(pool, FAILED, 8)
        await until(pool, "SELECT payload FROM queue_jobs WHERE status = 'quarantined'", {"n": 4})
    async with pool.connection() as conn:
        held = await conn.fetchval("SELECT last_error FROM queue_jobs WHERE status = 'quarantined'")
    assert held["reason"] == "its outcome could not be written: integer out of range"


@pytest.mark.parametrize("error", [ValueError("no"), ConnectionResetError("the chat's, not the database's")])
async def test_a_type_that_cannot_record_a_failure_keeps_no_job_from_ending(
    pool: Pool, error: Exception
) -> None:
    async def record(conn: Connection, job: LeasedJob, _error: BaseException, _final: bool) -> None:
        await conn.execute("INSERT INTO feature_flags (name) VALUES ($1)", f"failed {job.payload['n']}")
        if job.payload["n"] == 1:
            raise error

    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("bad", {"n": n}, max_attempts=1) for n in range(3)])
    async with working(pool, JobType("bad", _fails, failed=record)):
        await until(pool, FAILED, 3)
    async with pool.connection() as conn:
        names = await conn.fetch("SELECT name FROM feature_flags WHERE name LIKE 'failed %' ORDER BY name")
    assert [row["name"] for row in names] == ["failed 0", "failed 2"]


async def test_a_locked_table_is_waited_for_by_claims_and_results(pool: Pool, database: str) -> None:
    """`lock_timeout` ends statements of a worker that has done nothing wrong: they are tried again."""
    started, may_end = asyncio.Event(), asyncio.Event()

    async def waits(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        started.set()
        await may_end.wait()

    async with pool.connection() as conn:
        await conn.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET lock_timeout = '20ms'")
        await enqueue(conn, NewJob("waits"))
    impatient = await Pool.open(database, size=4)
    async with working(impatient, JobType("waits", waits), GOOD):
        await started.wait()
        with capture_logs() as lines:
            async with pool.transaction() as conn:
                await conn.execute("LOCK TABLE queue_jobs")
                may_end.set()
                async with asyncio.timeout(10):
                    while {"claim.failed", "finish.failed"} - {line["event"] for line in lines}:
                        await asyncio.sleep(0.01)
        async with pool.connection() as conn:
            await enqueue_many(conn, [NewJob("good") for _ in range(5)])
        await until(pool, GOOD_DONE, 5)
        await until(pool, "SELECT count(*) FROM job_history WHERE type = 'waits'", 1)
    await impatient.close()


@covers("D-12")
async def test_jobs_of_a_claim_whose_answer_was_lost_are_run(
    pool: Pool, database: str, server: TestServer
) -> None:
    """They are leased, to a worker that lives and has never heard of them. What it knows of stays its own."""
    ran: list[object] = []
    started, may_end = asyncio.Event(), asyncio.Event()

    async def waits(_ctx: Context, payload: Mapping[str, Any]) -> None:
        ran.append(payload)
        started.set()
        await may_end.wait()

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("waits"))
    async with proxied(server.port) as proxy:
        cut = await Pool.open(proxy.url(database), size=4)
        async with working(cut, JobType("waits", waits), GOOD):
            await started.wait()
            proxy.lose = b"UPDATE 3\0"
            async with pool.connection() as conn:
                await enqueue_many(conn, [NewJob("good") for _ in range(3)])
            await until(pool, GOOD_DONE, 3)
            assert not proxy.lose, "no answer was lost"
            may_end.set()
            await until(pool, "SELECT count(*) FROM job_history", 4)
        await cut.close()
    assert ran == [{}]


@covers("G3")
async def test_completions_whose_answer_was_lost_are_counted_and_are_no_lost_leases(
    pool: Pool, database: str, server: TestServer
) -> None:
    async with proxied(server.port) as proxy:
        cut = await Pool.open(proxy.url(database), size=4)
        async with working(cut, GOOD) as runner:
            proxy.lose = b"SELECT 3\0"
            async with pool.connection() as conn:
                await enqueue_many(conn, [NewJob("good") for _ in range(3)])
            await until(pool, GOOD_DONE, 3)
            async with asyncio.timeout(20):
                while runner.finisher.held():
                    await asyncio.sleep(0.01)
            assert not proxy.lose, "no answer was lost"
        await cut.close()
    assert (runner.finisher.finished, runner.finisher.lost) == (3, 0)


async def test_what_was_claimed_ahead_and_finds_no_slot_goes_to_a_worker_that_has_one(pool: Pool) -> None:
    """A fast queue is claimed ahead of its slots; then two slow jobs take them all."""
    may_end = asyncio.Event()

    async def mixed(_ctx: Context, payload: Mapping[str, Any]) -> None:
        if payload["slow"]:
            await may_end.wait()

    kind = JobType("mixed", mixed)
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("mixed", {"slow": n in (3000, 3001)}) for n in range(3500)])
    slow_run = "SELECT count(*) FROM queue_jobs WHERE status = 'running' AND payload = '{\"slow\": true}'"
    async with working(pool, kind, concurrency=2):
        await until(pool, slow_run, 2)
        started_s = monotonic_s()
        async with working(pool, kind, concurrency=2):
            await until(pool, "SELECT count(*) FROM job_history", 3498)
            assert monotonic_s() - started_s < BUFFER_S_MAX * 3
            may_end.set()
            await until(pool, "SELECT count(*) FROM job_history", 3500)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0


async def test_without_a_notification_a_job_waits_for_one_poll_and_no_longer(pool: Pool) -> None:
    """The plan is good for a second, but not where it found nothing."""
    async with working(pool, GOOD, poll_s=0.05):
        for _ in range(6):
            for _ in range(3):
                await asyncio.sleep(0.05)
            started_s = monotonic_s()
            async with pool.connection() as conn:
                await enqueue(conn, NewJob("good"))
            await until(pool, "SELECT count(*) FROM queue_jobs", 0)
            assert monotonic_s() - started_s < 0.5
