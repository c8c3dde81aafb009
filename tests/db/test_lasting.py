"""A program that enqueues now and then keeps its connections from time to time, and leaves none behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from starforge.app import StarForge
from starforge.db.errors import DatabaseUnreachableError
from starforge.db.lasting import LastingPools
from starforge.db.pool import Pool
from starforge.queue.handler import Context, JobType
from starforge.queue.results import JobState
from tests.worker.test_run import until, working

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'starforge app shop'"


def _to(database: str) -> LastingPools:
    async def url() -> str:
        return database

    return LastingPools(url, application="starforge app shop")


def _session(pools: LastingPools) -> int:
    """Use the pools as a script does, in a loop that ends; return the process that served."""

    async def used() -> int:
        served = []
        for _ in range(3):
            async with pools.connection() as conn:
                served.append(await conn.fetchval("SELECT pg_backend_pid()"))
        assert len(set(served)) == 1
        return int(served[0])

    return asyncio.run(used())


async def test_a_connection_is_kept_for_the_next_use_and_closed_with_the_loop(
    pool: Pool, database: str
) -> None:
    pools = _to(database)
    first, second = await asyncio.to_thread(_session, pools), await asyncio.to_thread(_session, pools)
    assert first != second
    await until(pool, SESSIONS, 0)


async def test_many_uses_at_once_open_one_pool(database: str) -> None:
    pools = _to(database)

    async def use() -> int:
        async with pools.connection() as conn:
            return int(await conn.fetchval("SELECT pg_backend_pid()"))

    assert len(set(await asyncio.gather(*(use() for _ in range(50))))) <= 4
    await (await pools._pool()).close()


async def test_a_database_that_was_away_at_the_first_use_is_asked_again(database: str) -> None:
    urls = ["postgresql://nobody@127.0.0.1:1/none", database]

    async def url() -> str:
        return urls.pop(0)

    pools = LastingPools(url, application="starforge app shop")
    with pytest.raises(DatabaseUnreachableError):
        async with pools.connection():
            pass
    async with pools.connection() as conn:
        assert await conn.fetchval("SELECT 1") == 1
    await (await pools._pool()).close()


async def test_a_handler_enqueues_over_its_workers_own_connections(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    app = StarForge("shop")
    states: list[JobState] = []

    async def first(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        accepted = await app.enqueue("second")
        states.append(await app.job_state(accepted.id))

    async def second(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        return None

    async with working(pool, JobType("first", first), JobType("second", second)):
        async with pool.connection() as conn:
            await app.enqueue("first", conn=conn)
        await until(pool, "SELECT count(*) FROM job_history", 2)
        await until(pool, SESSIONS, 0)
    assert [state.type for state in states] == ["second"]
