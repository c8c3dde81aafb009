"""The leader: one at a time by the database's clock, followed soon by another, whatever happens to it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from starforge.clock import monotonic_s
from starforge.db.leader import Lease, lead, release, renew, take
from starforge.db.pool import Connection, Pool, connect
from tests.conftest import Travel
from tests.covers import covers
from tests.pgbouncer import pgbouncer
from tests.postgres import TestServer

NAME = "test"
HOLDER = "SELECT holder FROM leases WHERE name = 'test' AND expires_at > sf_now()"


async def _until(true: Any, *, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)


async def test_only_one_of_two_holds_the_lease(conn: Connection) -> None:
    ann, bob = uuid4(), uuid4()
    lease = await take(conn, NAME, ann, lease_s=10)
    assert lease == Lease(NAME, ann, 1)
    assert await take(conn, NAME, bob, lease_s=10) is None
    assert await renew(conn, lease, lease_s=10)


async def test_asking_for_a_lease_that_is_held_writes_nothing(conn: Connection) -> None:
    await take(conn, NAME, uuid4(), lease_s=10)
    before = await conn.fetchrow("SELECT ctid, xmin, xmax FROM leases")
    assert await take(conn, NAME, uuid4(), lease_s=10) is None
    assert await conn.fetchrow("SELECT ctid, xmin, xmax FROM leases") == before


async def test_a_lease_that_ran_out_is_anothers_and_never_its_old_holders_again(
    conn: Connection, travel: Travel
) -> None:
    ann, bob = uuid4(), uuid4()
    old = await take(conn, NAME, ann, lease_s=10)
    assert old is not None
    await travel(conn, seconds=11)
    assert not await renew(conn, old, lease_s=10)
    new = await take(conn, NAME, bob, lease_s=10)
    assert new == Lease(NAME, bob, old.epoch + 1)
    assert not await renew(conn, old, lease_s=10)
    assert not await release(conn, old)
    assert await renew(conn, new, lease_s=10)


async def test_a_released_lease_is_free_at_once_under_a_new_epoch(conn: Connection) -> None:
    lease = await take(conn, NAME, uuid4(), lease_s=10)
    assert lease is not None
    assert await release(conn, lease)
    assert not await renew(conn, lease, lease_s=10)
    after = await take(conn, NAME, uuid4(), lease_s=10)
    assert after is not None
    assert after.epoch == lease.epoch + 1


async def test_whoever_lost_the_answer_to_its_taking_takes_again_without_waiting(conn: Connection) -> None:
    ann = uuid4()
    await take(conn, NAME, ann, lease_s=10)
    assert await take(conn, NAME, ann, lease_s=10) == Lease(NAME, ann, 2)


async def test_of_many_that_take_at_once_one_has_it(pool: Pool) -> None:
    async def one() -> Lease | None:
        async with pool.connection() as conn:
            return await take(conn, NAME, uuid4(), lease_s=10)

    for _ in range(10):
        async with pool.connection() as conn:
            await conn.execute("UPDATE leases SET expires_at = sf_now()")
        taken = await asyncio.gather(*(one() for _ in range(8)))
        assert sum(lease is not None for lease in taken) == 1


class Terms:
    """Work that notes when it leads, and what it is cancelled by."""

    def __init__(self) -> None:
        self.leading: list[Lease] = []
        self.ended: list[Lease] = []

    async def __call__(self, lease: Lease) -> None:
        self.leading.append(lease)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(lease)


@asynccontextmanager
async def _leading(pool: Pool, work: Any, *, lease_s: float = 0.6) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(lead(pool.connection, NAME, work, stop, lease_s=lease_s))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_a_leader_that_stops_gives_the_lease_up_and_the_next_leads(pool: Pool) -> None:
    first, second = Terms(), Terms()
    async with _leading(pool, first, lease_s=60) as stop:
        await _until(lambda: first.leading)
        async with _leading(pool, second, lease_s=0.6):
            assert not second.leading
            stop.set()
            await _until(lambda: second.leading)
    assert first.ended == first.leading
    assert second.leading[0].epoch > first.leading[0].epoch


async def test_a_leader_keeps_its_lease_for_longer_than_it_lasts(pool: Pool) -> None:
    terms = Terms()
    async with _leading(pool, terms, lease_s=0.3):
        await _until(lambda: terms.leading)
        started_s = monotonic_s()
        await _until(lambda: monotonic_s() - started_s > 1)
        assert not terms.ended


async def test_the_work_ends_before_another_may_lead_when_the_lease_cannot_be_renewed(
    database: str, pool: Pool
) -> None:
    """Its connection answers nothing more; the lease row tells when the database would let another lead."""
    terms = Terms()
    mute = asyncio.Event()

    @asynccontextmanager
    async def lend() -> AsyncIterator[Connection]:
        if mute.is_set():
            await asyncio.Event().wait()
        async with pool.connection() as conn:
            yield conn

    stop = asyncio.Event()
    task = asyncio.create_task(lead(lend, NAME, terms, stop, lease_s=1.0))
    await _until(lambda: terms.leading)
    mute.set()
    await _until(lambda: terms.ended)
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT expires_at > sf_now() FROM leases")
    stop.set()
    await asyncio.wait_for(task, 10)


@covers("D-12")
async def test_a_leader_whose_lease_was_taken_away_ends_its_work(pool: Pool) -> None:
    terms = Terms()
    async with _leading(pool, terms, lease_s=0.6):
        await _until(lambda: terms.leading)
        async with pool.connection() as conn:
            await conn.execute("UPDATE leases SET holder = $1, epoch = epoch + 1", uuid4())
        await _until(lambda: terms.ended)


async def test_work_that_fails_gives_the_lease_up_and_is_tried_again(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starforge.db.leader.FAILED_S", 0.01)
    epochs: list[int] = []

    async def work(lease: Lease) -> None:
        epochs.append(lease.epoch)
        raise KeyError("a fault of ours")

    async with _leading(pool, work, lease_s=60):
        await _until(lambda: len(epochs) >= 3)
    assert epochs == sorted(set(epochs))


async def test_losing_every_connection_costs_a_leader_no_more_than_its_term(
    pool: Pool, database: str
) -> None:
    """FAULTS 11: pg_terminate_backend on the leader."""
    terms = Terms()
    other = await connect(database)
    async with _leading(pool, terms, lease_s=0.6):
        for _ in range(5):
            await _until(lambda: len(terms.leading) > len(terms.ended))
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.05)
        await _until(lambda: len(terms.leading) > len(terms.ended))
        assert await other.fetchval(HOLDER) == terms.leading[-1].holder
    await other.close()


async def test_no_two_lead_at_once_however_often_their_questions_fail_or_hang(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each notes on one clock when it led; terms overlap by no more than a busy loop takes to cancel."""
    monkeypatch.setattr("starforge.db.leader.FAILED_S", 0.02)
    monkeypatch.setattr("starforge.db.leader.FAILED_S_MAX", 0.05)
    dice = random.Random(7)
    terms: list[tuple[float, float]] = []
    stop = asyncio.Event()

    @asynccontextmanager
    async def lend() -> AsyncIterator[Connection]:
        fate = dice.random()
        if fate < 0.6:
            raise ConnectionResetError("the network")
        if fate < 0.8:
            await asyncio.sleep(dice.uniform(0, 0.05))
        async with pool.connection() as conn:
            yield conn
        if fate > 0.9:
            raise ConnectionResetError("the answer was lost")

    async def work(_lease: Lease) -> None:
        started_s = monotonic_s()
        try:
            await asyncio.Event().wait()
        finally:
            terms.append((started_s, monotonic_s()))

    many = [asyncio.create_task(lead(lend, NAME, work, stop, lease_s=0.2)) for _ in range(4)]
    await _until(lambda: len(terms) >= 10, within_s=60)
    stop.set()
    await asyncio.wait_for(asyncio.gather(*many), 10)
    terms.sort()
    assert all(ended <= started + 0.05 for (_, ended), (started, _) in pairwise(terms))


LEADER = """
import asyncio, sys
from starforge.db.leader import lead
from starforge.db.pool import Pool
from starforge.telemetry.log import configure

async def main():
    configure("error")
    pool = await Pool.open(sys.argv[1], size=2)
    async def work(lease):
        print(lease.epoch, flush=True)
        await asyncio.Event().wait()
    await lead(pool.connection, "test", work, asyncio.Event(), lease_s=1.0)

asyncio.run(main())
"""


@asynccontextmanager
async def _a_process(database: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LEADER,
        database,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _epoch(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    return int(await asyncio.wait_for(process.stdout.readline(), 20))


@covers("D-12")
async def test_a_leader_that_is_killed_is_followed_within_its_lease(database: str) -> None:
    async with _a_process(database) as first:
        assert await _epoch(first) == 1
        async with _a_process(database) as second:
            first.kill()
            assert await _epoch(second) == 2


async def test_a_leader_that_was_frozen_beyond_its_lease_is_refused_when_it_wakes(database: str) -> None:
    async with _a_process(database) as first:
        assert await _epoch(first) == 1
        os.kill(first.pid, signal.SIGSTOP)
        async with _a_process(database) as second:
            assert await _epoch(second) == 2
            os.kill(first.pid, signal.SIGCONT)
            second.kill()
            # It goes on as anybody: under a new epoch, once the lease of the other is over.
            assert await _epoch(first) == 3


@pytest.mark.system("pgbouncer")
async def test_behind_a_pooler_there_is_one_leader_too(server: TestServer, database: str) -> None:
    name = database.rpartition("/")[2]
    with pgbouncer(server) as port:
        pools = [await Pool.open(f"postgresql://tester@127.0.0.1:{port}/{name}", size=2) for _ in range(2)]
        ann, bob = Terms(), Terms()
        async with _leading(pools[0], ann) as stop:
            await _until(lambda: ann.leading)
            async with _leading(pools[1], bob):
                await asyncio.sleep(0.05)
                assert not bob.leading
                stop.set()
                await _until(lambda: bob.leading)
        for pool in pools:
            await pool.close()


async def test_a_database_that_refuses_is_asked_again(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starforge.db.leader.FAILED_S", 0.01)
    terms = Terms()
    async with pool.connection() as conn:
        await conn.execute("ALTER TABLE leases RENAME TO leases_gone")
    async with _leading(pool, terms):
        await asyncio.sleep(0.05)
        async with pool.connection() as conn:
            with pytest.raises(asyncpg.UndefinedTableError):
                await conn.execute("SELECT * FROM leases")
            await conn.execute("ALTER TABLE leases_gone RENAME TO leases")
        await _until(lambda: terms.leading)
