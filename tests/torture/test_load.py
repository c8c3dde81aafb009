"""Rows 27 and 29: a long transaction holds the horizon, and very many jobs are due at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Any
from uuid import UUID

from starforge.clock import monotonic_s
from starforge.db.pool import Connection, Pool, connect
from starforge.queue.claim import claim
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue_many
from starforge.queue.gate import close, end
from starforge.queue.handler import Context, JobType
from starforge.queue.job import NewJob
from starforge.queue.plan import Plan
from starforge.worker.registry import Registration, register
from tests.covers import covers
from tests.worker.test_run import working

CHURN = 30_000
DUE = 100_000
FAILED = 20_000
BATCH = 50
SPREAD = "SELECT stddev(extract(epoch FROM run_after - updated_at))::float8 FROM queue_jobs"


async def _churn(conn: Connection, worker_id: UUID, jobs: int) -> list[float]:
    """Let so many jobs through in small batches; return how long each claim took."""
    plan, claims_s = Plan(["default"], ["t"]), []
    for _ in range(jobs // 1000):
        await enqueue_many(conn, [NewJob("t") for _ in range(1000)])
        left = 1000
        while left:
            started_s = monotonic_s()
            got = await claim(conn, plan, n=BATCH, worker_id=worker_id)
            claims_s.append(monotonic_s() - started_s)
            plan.expire()
            left -= len(await complete(conn, got, [1.0] * len(got), worker_id=worker_id))
    return claims_s


def _p99(times_s: list[float]) -> float:
    return quantiles(times_s, n=100)[98]


@covers("G2")
async def test_claims_stay_quick_under_a_transaction_that_holds_the_horizon(
    pool: Pool, database: str
) -> None:
    conn, holder = await connect(database), await connect(database)
    worker_id = await register(conn, Registration(("default",), ("t",), 1), lease_s=3600)
    before = _p99(await _churn(conn, worker_id, CHURN // 3))
    async with holder.transaction(isolation="repeatable_read"):
        await holder.fetchval("SELECT count(*) FROM queue_jobs")
        claims_s = await _churn(conn, worker_id, CHURN)
        dead = await conn.fetchval("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'queue_jobs'")
    last = _p99(claims_s[-len(claims_s) // 3 :])
    print(f"claim p99 {before * 1000:.1f} ms before, {last * 1000:.1f} ms held; {dead} dead rows")
    assert last <= 3 * before + 0.005
    for opened in (conn, holder):
        await opened.close()


async def _until(pool: Pool, query: str, wanted: Any, within_s: float) -> None:
    async with asyncio.timeout(within_s), pool.connection() as conn:
        while await conn.fetchval(query) != wanted:
            await asyncio.sleep(0.05)


@covers("G2")
async def test_very_many_jobs_due_at_one_instant_are_each_run_once(pool: Pool, database: str) -> None:
    ran: set[UUID] = set()
    twice = 0

    async def note(ctx: Context, _payload: Mapping[str, Any]) -> None:
        nonlocal twice
        twice += ctx.job.id in ran
        ran.add(ctx.job.id)

    at = datetime.now(UTC) + timedelta(seconds=5)
    async with pool.connection() as conn:
        for _ in range(DUE // 10_000):
            await enqueue_many(conn, [NewJob("note", run_after=at) for _ in range(10_000)])
    started_s = monotonic_s()
    kind = JobType("note", note)
    async with working(pool, kind, concurrency=32), working(pool, kind, concurrency=32):
        await _until(pool, "SELECT count(*) FROM queue_jobs", 0, 300)
    print(f"{DUE} due at once: {DUE / (monotonic_s() - started_s):.0f}/s")
    assert (len(ran), twice) == (DUE, 0)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM job_history") == DUE


@covers("G2", "F-31")
async def test_retries_that_were_suspended_come_back_spread_and_all_of_them(pool: Pool) -> None:
    """They fail together, are held back together, and are let go together."""

    async def fails_first(ctx: Context, _payload: Mapping[str, Any]) -> None:
        if ctx.attempt == 1:
            raise RuntimeError("the provider is down")

    async with pool.connection() as conn:
        await close(conn, "type", "bad", "retries", owner="ann", reason="storm", minutes=60)
        await enqueue_many(conn, [NewJob("bad") for _ in range(FAILED)])
    kind = JobType("bad", fails_first)
    async with working(pool, kind, concurrency=32), working(pool, kind, concurrency=32):
        await _until(pool, "SELECT count(*) FROM queue_jobs WHERE attempts = 1", FAILED, 300)
        async with pool.connection() as conn:
            spread_s = await conn.fetchval(
                "SELECT stddev(extract(epoch FROM run_after))::float8 FROM queue_jobs"
            )
            await end(conn, "type", "bad", "retries")
        await _until(pool, "SELECT count(*) FROM job_history WHERE status = 'completed'", FAILED, 300)
    print(f"retries spread by {spread_s:.2f} s")
    assert spread_s > 0.1
