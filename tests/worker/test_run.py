"""The runner: whatever a handler, its error or its payload is, the other jobs end and the worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.handler import Context, JobType, JobTypes
from starforge.queue.job import LeasedJob, NewJob
from starforge.worker.registry import Registration, register
from starforge.worker.run import Runner

Handler = Callable[[Context, Mapping[str, Any]], Awaitable[Any]]


@asynccontextmanager
async def working(
    pool: Pool, *types: JobType, concurrency: int = 4, poll_s: float = 0.05
) -> AsyncIterator[Runner]:
    """Run a worker's runner in this process under a lease of a minute; it must end in order."""
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


async def until(pool: Pool, query: str, wanted: Any, *args: object) -> None:
    async with asyncio.timeout(5), pool.connection() as conn:
        while await conn.fetchval(query, *args) != wanted:
            await asyncio.sleep(0.01)


async def _nothing(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


GOOD = JobType("good", _nothing)
DONE = "SELECT count(*) FROM job_history WHERE type = 'good'"


class Mute(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Panic(BaseException):
    """What libraries in other languages raise."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asyncio.CancelledError(), "CancelledError"),
        (SystemExit(2), "2"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Panic("overflow"), "overflow"),
        (ValueError("a\0b"), "a\ufffdb"),
        (ValueError("a\ud800b"), "a"),
        (Mute(), "Mute"),
        (ExceptionGroup("two", [ValueError("a\0"), ValueError("\udfff")]), "two (2 sub-exceptions)"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_a_handler_raises_is_the_end_of_its_attempt_and_of_nothing_else(
    pool: Pool, error: BaseException, told: str
) -> None:
    async def fails(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        raise error

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("bad", max_attempts=1))
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, JobType("bad", fails), GOOD):
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'failed'", 1)
        await until(pool, DONE, 5)
    async with pool.connection() as conn:
        letter = await conn.fetchrow("SELECT reason, last_error FROM queue_jobs_dlq")
    assert letter is not None
    assert letter["reason"].startswith(told)


@pytest.mark.parametrize(
    "payload",
    ["[]", '"x"', "null", "7", '{"n": 1e5000}', '{"n": 1%s}' % ("0" * 5000), "[" * 3000 + "]" * 3000],
)
async def test_a_payload_made_by_hand_that_no_handler_can_take_fails_its_job_alone(
    pool: Pool, payload: str
) -> None:
    async def takes(_ctx: Context, payload: Mapping[str, Any]) -> None:
        dict(**payload)

    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO queue_jobs (type, payload, max_attempts) VALUES ('bad', $1::text::jsonb, 1)", payload
        )
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, JobType("bad", takes), GOOD):
        await until(pool, DONE, 5)
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'failed'", 1)


@pytest.mark.parametrize(
    "column",
    [
        "run_after = '-infinity'",
        "run_after = '4000-01-01 BC'",
        "created_at = 'infinity'",
        "attempts = 2147483647, max_attempts=2147483647",
        "created_at = '4000-01-01 BC'",
        "priority = -2147483648",
        "lease_epoch = 9223372036854775807",
    ],
)
async def test_a_row_changed_by_hand_to_an_extreme_does_not_stop_the_others(pool: Pool, column: str) -> None:
    async def fails(_ctx: Context, payload: Mapping[str, Any]) -> None:
        raise ValueError("no")

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("bad", max_attempts=1))
        await conn.execute(f"UPDATE queue_jobs SET {column}")
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, JobType("bad", fails), GOOD):
        await until(pool, DONE, 5)
        if "lease" not in column:
            await until(pool, "SELECT count(*) FROM queue_jobs WHERE status IN ('failed', 'quarantined')", 1)


async def test_a_hook_that_raises(pool: Pool) -> None:
    async def fails(_ctx: Context, payload: Mapping[str, Any]) -> None:
        raise ValueError("no")

    async def hook(conn: Connection, _job: LeasedJob, _error: BaseException, _final: bool) -> None:
        await conn.execute("SELECT 1 / 0")

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("bad", max_attempts=1))
        await enqueue_many(conn, [NewJob("good") for _ in range(5)])
    async with working(pool, JobType("bad", fails, failed=hook), GOOD):
        await until(pool, DONE, 5)
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'failed'", 1)
