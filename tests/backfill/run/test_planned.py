"""A pause that was planned to end ends by itself, unless partitions would be skipped."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from starforge.backfill.run import planned
from starforge.backfill.run.planned import Planned
from starforge.db.pool import Connection, Pool, connect
from starforge.ops.perform import perform
from tests.backfill.backfills import ANN, made, row_of
from tests.conftest import Travel
from tests.covers import covers


async def pause(pool: Pool, one: Any, **arguments: str) -> None:
    await perform(pool, "backfill pause", {"job_id": str(one), **arguments}, **ANN)


@covers("B-12", "D-13")
async def test_what_is_due_goes_on_and_nothing_else_does(pool: Pool, travel: Travel) -> None:
    due, later, open_end = [await made(pool, "running", "completed", "pending") for _ in range(3)]
    theirs = await made(pool, "paused", "pending", tenant="bolt")
    await pause(pool, due, resume_in="1h")
    await pause(pool, later, resume_in="3h")
    await pause(pool, open_end)
    look = Planned()
    async with pool.connection() as conn:
        await conn.execute(
            "UPDATE backfill_jobs SET resume_at = sf_now() + interval '1 h' WHERE id = $1", theirs
        )
        assert await look.resume_due(conn) == []
        await travel(conn, hours=2)
        assert set(await look.resume_due(conn)) == {due, theirs}
        assert await look.resume_due(conn) == []
    row = await row_of(pool, due)
    assert (row["state"], row["state_by"], row["resume_at"], row["version"]) == ("resuming", "ann", None, 7)
    assert row["state_reason"].startswith("it was planned for 2")
    assert 121 <= row["age_s"] < 130
    for one in (later, open_end):
        assert (await row_of(pool, one))["state"] == "paused"


@covers("B-12", "B-35")
async def test_one_that_would_skip_partitions_stays_paused_and_is_not_looked_at_all_the_time(
    pool: Pool, travel: Travel
) -> None:
    one = await made(pool, "running", "pending", "pending", checkpoint_partition_key="p2")
    await pause(pool, one, resume_in="1h")
    look = Planned()
    async with pool.connection() as conn:
        await travel(conn, hours=2)
        assert await look.resume_due(conn) == []
        assert list(look.unfit) == [one]
        await conn.execute("UPDATE backfill_jobs SET checkpoint_partition_key = NULL")
        assert await look.resume_due(conn) == []
        look.unfit[one] -= 301
        assert await look.resume_due(conn) == [one]


@covers("B-12")
async def test_one_look_resumes_no_more_than_there_is_time_for_and_the_next_ones_the_rest(
    pool: Pool, travel: Travel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks has other backfills to look after, and each comparison reads a whole backfill."""
    some = {await made(pool, "running", "pending") for _ in range(3)}
    for one in some:
        await pause(pool, one, resume_in="1h")
    monkeypatch.setattr(planned, "SPENT_S_MAX", 0.0)
    look = Planned()
    async with pool.connection() as conn:
        await travel(conn, hours=2)
        found = [await look.resume_due(conn) for _ in range(4)]
    assert [len(ids) for ids in found] == [1, 1, 1, 0]
    assert {one for ids in found for one in ids} == some


@covers("B-12")
async def test_one_whose_comparison_is_cut_short_is_left_alone_for_a_while(
    pool: Pool, travel: Travel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await made(pool, "running", "pending")
    await pause(pool, one, resume_in="1h")

    async def endless(_conn: Connection, _backfill_id: UUID, _tenant: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(planned, "blocking", endless)
    look = Planned()
    async with pool.connection() as conn:
        await travel(conn, hours=2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await look.resume_due(conn)
        assert list(look.unfit) == [one]
        assert await look.resume_due(conn) == []


async def test_of_several_processes_one_resumes_it(pool: Pool, database: str, travel: Travel) -> None:
    one = await made(pool, "running", "pending")
    await pause(pool, one, resume_in="1h")
    conns = [await connect(database) for _ in range(4)]
    await travel(conns[0], hours=2)
    found = await asyncio.gather(*(Planned().resume_due(conn) for conn in conns))
    assert sorted(map(len, found)) == [0, 0, 0, 1]
    assert (await row_of(pool, one))["version"] == 7
    for conn in conns:
        await conn.close()
