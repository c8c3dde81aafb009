"""Following a backfill: to its end, and over an outage of the database."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from starforge.backfill.errors import UnknownBackfillError
from starforge.backfill.show import follow as follows
from starforge.backfill.show.follow import Away, follow
from starforge.backfill.show.status import Status
from starforge.db.pool import Connection, Pool, connect
from tests.backfill.rows import a_backfill
from tests.covers import covers
from tests.postgres import TestServer
from tests.proxy import Fault, Session, Statement, proxied


async def end(db: Connection) -> None:
    await db.execute("UPDATE backfill_jobs SET state = 'completed', completed_at = sf_now()")


@covers("B-25")
async def test_following_ends_when_the_backfill_has_ended_and_is_counted(database: str, pool: Pool) -> None:
    db = await connect(database)
    backfill_id = await a_backfill(db, state="running")
    seen: list[Status] = []
    async with asyncio.timeout(20):
        async for look in follow(pool, backfill_id, "default", every_s=0.01):
            assert isinstance(look, Status)
            seen.append(look)
            if look.state == "running":
                await end(db)
            elif len(seen) == 3:
                await db.execute("UPDATE backfill_jobs SET closed_at = sf_now()")
    assert [one.state for one in seen[:3]] == ["running", "completed", "completed"]
    assert [one.ended for one in (seen[0], seen[1], seen[-1])] == [False, False, True]
    await db.close()


@covers("B-25")
async def test_following_says_that_the_database_is_away_and_goes_on_when_it_is_back(
    database: str, server: TestServer
) -> None:
    db = await connect(database)
    backfill_id = await a_backfill(db, state="running")
    is_away = False

    def rule(_statement: Statement) -> Fault | None:
        return Fault("before", Session.reset) if is_away else None

    kinds: list[str] = []
    async with proxied(server.port) as proxy, asyncio.timeout(30):
        proxy.rule = rule
        pool = await Pool.open(proxy.url(database), size=1)
        async for look in follow(pool, backfill_id, "default", every_s=0.01):
            kinds.append("away" if isinstance(look, Away) else look.state)
            is_away = kinds.count("away") < 2
            if kinds[-1] == "running" and not is_away:
                await end(db)
                await db.execute("UPDATE backfill_jobs SET closed_at = sf_now()")
        await pool.close()
    assert kinds[0] == "running"
    assert kinds[1:3] == ["away", "away"]
    assert kinds[-1] == "completed"
    await db.close()


@covers("B-25")
async def test_a_database_that_answers_nothing_counts_as_away(
    database: str, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follows, "LOOK_S_MAX", 0.2)
    db = await connect(database)
    backfill_id = await a_backfill(db, state="running")
    async with proxied(server.port) as proxy, asyncio.timeout(30):
        pool = await Pool.open(proxy.url(database), size=1)
        kinds: list[str] = []
        async for look in follow(pool, backfill_id, "default", every_s=0.01):
            kinds.append("away" if isinstance(look, Away) else look.state)
            if kinds == ["running"]:
                proxy.mute()
            if kinds[1:] == ["away", "running"]:
                break
        await pool.close()
    await db.close()


async def test_nobody_follows_what_is_not_there(pool: Pool) -> None:
    with pytest.raises(UnknownBackfillError):
        await anext(follow(pool, uuid4(), "default"))
