"""The path of a job, from enqueue to history or the dead letters, through the one way there is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import starforge
from starforge.db.pool import Pool
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.handler import Context, JobType, JobTypes, PermanentError, Quarantined
from starforge.queue.job import NewJob
from starforge.worker.registry import Registration, register
from starforge.worker.run import Runner
from tests.covers import covers

PATH = (
    "queue/enqueue.py",
    "worker/claimer.py",
    "queue/claim.py",
    "worker/run.py",
    "worker/attempt.py",
    "queue/handler.py",
    "queue/complete.py",
    "queue/retry.py",
    "queue/fail.py",
)


async def run_until(pool: Pool, types: JobTypes, query: str, wanted: int, *, concurrency: int = 4) -> Runner:
    """Run a worker's child loop in this process until the query counts `wanted`, then stop it in order."""
    async with pool.connection() as conn:
        worker_id = await register(conn, Registration(("default",), types.names(), concurrency), lease_s=30)
    runner = Runner(pool, types, worker_id, queues=("default",), concurrency=concurrency, poll_s=0.05)
    running = asyncio.create_task(runner.run(grace_s=5, hurry=asyncio.Event()))
    async with pool.connection() as conn, asyncio.timeout(20):
        while await conn.fetchval(query) < wanted:
            await asyncio.sleep(0.01)
    runner.stop()
    await running
    return runner


HISTORY = "SELECT count(*) FROM job_history"


def test_the_path_is_nine_files_with_a_statement_each_beside_the_queues_verbs() -> None:
    root = Path(starforge.__file__).parent
    lines = sum(len((root / file).read_text().splitlines()) for file in PATH)
    assert lines < 1400
    for file in PATH:
        if file.startswith("queue/") and file != "queue/handler.py":
            assert (root / "queue" / "sql" / Path(file).with_suffix(".sql").name).exists()


async def test_every_enqueued_job_is_run_once_and_ends_in_history(pool: Pool) -> None:
    seen: list[int] = []

    async def note(_context: Context, payload: Mapping[str, Any]) -> None:
        seen.append(payload["n"])

    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("note", {"n": n}) for n in range(2000)])
    runner = await run_until(pool, JobTypes([JobType("note", note)]), HISTORY, 2000)
    assert sorted(seen) == list(range(2000))
    assert (runner.finisher.finished, runner.finisher.lost) == (2000, 0)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM queue_jobs") == 0
        row = await conn.fetchrow("SELECT * FROM job_history LIMIT 1")
    assert row is not None
    assert row["status"] == "completed"
    assert row["created_at"] <= row["started_at"] <= row["completed_at"]


@covers("Q-69", "J-38", "D-19")
async def test_failures_are_retried_and_end_as_dead_letters(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKOFF_BASE_S", "0.01")
    attempts: dict[str, list[int]] = {}
    told: list[tuple[str, bool]] = []

    async def fall(context: Context, payload: Mapping[str, Any]) -> None:
        attempts.setdefault(payload["how"], []).append(context.attempt)
        if payload["how"] == "permanent":
            raise PermanentError("no retry can help")
        if payload["how"] == "twice" and context.attempt == 3:
            return
        raise RuntimeError("it broke")

    async def failed(_conn: Any, job: Any, error: BaseException, final: bool) -> None:
        told.append((job.payload["how"], final))

    async with pool.connection() as conn:
        for how in ("always", "twice", "permanent"):
            await enqueue(conn, NewJob("fall", {"how": how}, max_attempts=4))
    ended = f"SELECT ({HISTORY}) + (SELECT count(*) FROM queue_jobs WHERE status = 'failed')"
    await run_until(pool, JobTypes([JobType("fall", fall, failed=failed)]), ended, 3)
    assert attempts == {"always": [1, 2, 3, 4], "twice": [1, 2, 3], "permanent": [1]}
    assert sorted(told) == [
        ("always", False), ("always", False), ("always", False), ("always", True),
        ("permanent", True), ("twice", False), ("twice", False),
    ]  # fmt: skip
    async with pool.connection() as conn:
        letters = await conn.fetch("SELECT payload, reason, last_error FROM queue_jobs_dlq ORDER BY reason")
        statuses = await conn.fetch("SELECT payload, status, attempts FROM queue_jobs ORDER BY attempts")
    assert [(row["payload"]["how"], row["reason"]) for row in letters] == [
        ("always", "it broke"),
        ("permanent", "no retry can help"),
    ]
    assert "RuntimeError" in letters[0]["last_error"]["trace"]
    assert [(row["payload"]["how"], row["status"], row["attempts"]) for row in statuses] == [
        ("permanent", "failed", 1),
        ("always", "failed", 4),
    ]


async def test_a_job_that_its_handler_holds_back_is_quarantined_without_an_attempt(pool: Pool) -> None:
    async def hold(_context: Context, _payload: Mapping[str, Any]) -> None:
        raise Quarantined("waits for a release")

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("hold"))
    await run_until(
        pool,
        JobTypes([JobType("hold", hold)]),
        "SELECT count(*) FROM queue_jobs WHERE status = 'quarantined'",
        1,
    )
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT attempts, last_error, worker_id FROM queue_jobs")
    assert row is not None
    assert (row["attempts"], row["last_error"]["reason"], row["worker_id"]) == (
        0,
        "waits for a release",
        None,
    )


async def test_a_handler_past_its_timeout_is_cancelled_and_the_attempt_failed(pool: Pool) -> None:
    ended: list[str] = []

    async def linger(_context: Context, _payload: Mapping[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("linger", max_attempts=1))
    await run_until(
        pool,
        JobTypes([JobType("linger", linger, timeout_s=0.05)]),
        "SELECT count(*) FROM queue_jobs WHERE status = 'failed'",
        1,
    )
    async with pool.connection() as conn:
        reason = await conn.fetchval("SELECT last_error ->> 'reason' FROM queue_jobs")
    assert ended == ["cancelled"]
    assert reason == "no result within 0.05 s"


async def test_a_stop_lets_running_jobs_end_and_gives_back_what_was_not_started(pool: Pool) -> None:
    release, started = asyncio.Event(), asyncio.Event()

    async def wait_here(_context: Context, _payload: Mapping[str, Any]) -> None:
        started.set()
        await release.wait()

    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("wait") for _ in range(20)])
        worker_id = await register(conn, Registration(("default",), ("wait",), 2), lease_s=30)
    types = JobTypes([JobType("wait", wait_here)])
    runner = Runner(pool, types, worker_id, queues=("default",), concurrency=2, poll_s=0.05)
    running = asyncio.create_task(runner.run(grace_s=5, hurry=asyncio.Event()))
    await started.wait()
    runner.stop()
    release.set()
    await running
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT status, attempts FROM queue_jobs")
        finished = await conn.fetchval(HISTORY)
    assert {tuple(row) for row in rows} == {("pending", 0)}
    assert finished + len(rows) == 20
    assert finished >= 1


async def test_jobs_still_running_after_the_grace_period_are_given_back_unburnt(pool: Pool) -> None:
    started = asyncio.Event()

    async def forever(_context: Context, _payload: Mapping[str, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    async with pool.connection() as conn:
        await enqueue(conn, NewJob("forever"))
        worker_id = await register(conn, Registration(("default",), ("forever",), 1), lease_s=30)
    types = JobTypes([JobType("forever", forever)])
    runner = Runner(pool, types, worker_id, queues=("default",), concurrency=1, poll_s=0.05)
    running = asyncio.create_task(runner.run(grace_s=0.05, hurry=asyncio.Event()))
    await started.wait()
    runner.stop()
    await running
    async with pool.connection() as conn:
        row = await conn.fetchrow("SELECT status, attempts, worker_id FROM queue_jobs")
    assert row is not None
    assert tuple(row) == ("pending", 0, None)
