"""A backfill gives way: to a database that suffers, and to others of its tenant."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from starforge.backfill.run import coordinate
from starforge.db.pool import Connection, Pool, connect
from starforge.worker.state import read_state
from tests.backfill.engine import daily, engine
from tests.backfill.gates import Gates
from tests.covers import covers


async def passing(conn: Connection) -> None:
    """Wait for the lock, in whatever turn, and let the next one have it."""
    await conn.execute("SELECT pg_advisory_lock(1)")
    await conn.execute("SELECT pg_advisory_unlock(1)")


@covers("B-69", "Q-59")
async def test_while_sessions_wait_for_locks_less_runs_and_it_is_said_why(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_LOCK_WAITS", "2")
    monkeypatch.setenv("STARFORGE_BACKFILL_STOP_FACTOR", "10")
    monkeypatch.setenv("STARFORGE_BACKFILL_CALM_S", "0")
    monkeypatch.setattr(coordinate, "HEALTH_S", 0.05)
    gates = Gates()
    async with AsyncExitStack() as stack:
        holder, *waiting = [await connect(database) for _ in range(4)]
        for conn in (holder, *waiting):
            stack.push_async_callback(conn.close)
        await holder.execute("SELECT pg_advisory_lock(1)")
        async with engine(pool, [daily("days", gates, concurrency=4)]) as running:
            backfill_id = await running.create("days", 40)
            await gates.until(lambda all_: len(all_.came) == 4)
            asked = [asyncio.create_task(passing(conn)) for conn in waiting]
            row = await running.until(backfill_id, lambda row: row["pace"] < 1)
            assert "3 sessions wait for locks (limit 2)" in row["pace_reason"]
            assert row["look"]["throttle"] == "locks"
            limit = "SELECT value FROM setting_overrides WHERE scope = 'key' AND name = $1"
            async with pool.connection() as own:
                assert await own.fetchval(limit, str(backfill_id)) == 2
                assert (await read_state(own)).backfills_throttled == {("locks",): 1}
            await holder.execute("SELECT pg_advisory_unlock(1)")
            await asyncio.gather(*asked)
            await running.until(backfill_id, lambda row: row["pace"] == 1 and row["pace_reason"] is None)
            gates.let()
            assert (await running.over(backfill_id))["state"] == "completed"
            async with pool.connection() as own:
                assert await own.fetchval(limit, str(backfill_id)) is None, "it goes with its backfill"


@covers("B-69")
async def test_backfills_of_one_tenant_share_what_it_may_run(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_BACKFILL_TENANT_CONCURRENCY", "4")
    gates = Gates()
    assets = [daily(name, gates, concurrency=4) for name in ("a", "b")]
    async with engine(pool, assets, concurrency=16) as running:
        ids = [await running.create(name, 20) for name in ("a", "b")]
        for backfill_id in ids:
            row = await running.until(backfill_id, lambda row: row["pace_reason"] is not None)
            assert row["pace_reason"] == (
                "2 of 4 at once: backfills of tenant default ask for 8, 4 are allowed"
            )
        gates.let()
        rows = [await running.over(backfill_id) for backfill_id in ids]
    assert [row["state"] for row in rows] == ["completed", "completed"]
