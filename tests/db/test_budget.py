"""The budget of connections: shares that add up, refusals with the arithmetic, and room for an operator."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest

from starforge.db.budget import Budget, holders, read_budget
from starforge.db.errors import BudgetError
from starforge.db.migrate import migrate
from starforge.db.pool import Connection, connect
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from starforge.worker.registry import Registration, admit, bury, stop
from tests.covers import covers
from tests.postgres import TestServer
from tests.worker.marks import TABLE
from tests.worker.test_supervise import a_worker, until

pytestmark = pytest.mark.db

REGISTRATION = Registration(("default",), ("t",), 1)


@pytest.fixture(scope="module")
def small() -> Iterator[TestServer]:
    """A server for 15 connections, 3 of them the superuser's."""
    started = TestServer(
        os.environ.get("STARFORGE_TEST_POSTGRES", "18"),
        options={"max_connections": "15", "shared_preload_libraries": ""},
    )
    asyncio.run(_migrated(started))
    yield started
    started.stop()


async def _migrated(server: TestServer) -> None:
    conn = await connect(server.url())
    await migrate(conn)
    await conn.execute(TABLE)
    await conn.close()


@pytest.fixture
async def few(small: TestServer) -> AsyncIterator[Connection]:
    """A connection to the small server; workers are forgotten afterwards."""
    conn = await connect(small.url())
    yield conn
    await conn.execute("TRUNCATE workers, queue_jobs, job_history, marks")
    await conn.close()


async def _admitted(conn: Connection, wanted: int) -> int:
    """Register another worker, as another process would, and return its share."""
    worker_id, share = await admit(conn, REGISTRATION, lease_s=30, wanted=wanted)
    await conn.execute("UPDATE workers SET pid = 999999 WHERE id = $1", worker_id)
    return share


@covers("D-06", "Q-53")
async def test_the_formula_takes_the_headroom_off_once_and_shows_its_terms(few: Connection) -> None:
    budget = await read_budget(few)
    assert (budget.max_connections, budget.reserved, budget.headroom, budget.capacity) == (15, 3, 3, 9)
    assert (budget.fit(4), budget.fit(9), budget.fit(10)) == (2, 1, 0)
    assert budget.formula(4) == (
        "max_connections 15 - reserved 3 - headroom 3 = 9; / PG_POOL_MAX 4 = 2 workers"
    )
    large = Budget(500, 3, 20, used=40, others=7, shares=64, workers=8)
    assert (large.capacity, large.free, large.more(8)) == (477, 406, 50)


@covers("X-16")
async def test_a_headroom_that_is_set_is_taken_as_it_is(
    few: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFORGE_CONNECTION_HEADROOM", "9")
    assert (await read_budget(few)).capacity == 3


@covers("Q-62")
async def test_workers_get_what_they_ask_for_then_what_is_left_and_then_the_sum_in_words(
    few: Connection,
) -> None:
    """One connection is the test's own: it counts as somebody else's."""
    assert [await _admitted(few, 4), await _admitted(few, 8)] == [4, 4]
    with pytest.raises(BudgetError) as refused:
        await _admitted(few, 8)
    assert str(refused.value) == (
        "a worker with PG_POOL_MAX 8 needs 2 connections or more: max_connections 15 - reserved 3"
        " - headroom 3 = 9; 9 - others 1 - shares of 2 workers 8 = 0 free"
    )
    assert await few.fetchval("SELECT count(*) FROM workers") == 2


async def test_a_share_is_free_again_when_its_worker_has_ended_or_gives_no_sign(
    few: Connection,
) -> None:
    async def buried(worker_id: UUID) -> None:
        await bury(few, worker_id, "gone")

    async def stopped(worker_id: UUID) -> None:
        await stop(few, worker_id, ended=True, reason="told")

    async def silent(_worker_id: UUID) -> None:
        await few.execute("UPDATE workers SET lease_expires_at = sf_now()")

    for end in (buried, stopped, silent):
        first, _ = await admit(few, REGISTRATION, lease_s=30, wanted=8)
        await few.execute("UPDATE workers SET pid = 1")
        with pytest.raises(BudgetError):
            await _admitted(few, 2)
        await end(first)
        assert await _admitted(few, 8) == 8
        await few.execute("TRUNCATE workers")


async def test_a_worker_that_registers_again_does_not_stand_in_its_own_way(few: Connection) -> None:
    for _ in range(3):
        assert (await admit(few, REGISTRATION, lease_s=30, wanted=8))[1] == 8


async def test_workers_that_start_at_once_never_get_more_than_there_is(small: TestServer) -> None:
    conns = [await connect(small.url()) for _ in range(4)]

    async def admitted(conn: Connection) -> int:
        async with conn.transaction():
            _, share = await admit(conn, REGISTRATION, lease_s=30, wanted=3)
            await conn.execute("UPDATE workers SET pid = pid + pg_backend_pid() WHERE pid = $1", os.getpid())
            return share

    shares = await asyncio.gather(*(admitted(conn) for conn in conns), return_exceptions=True)
    assert sorted(share for share in shares if isinstance(share, int)) == [2, 3]
    assert sum(isinstance(share, BudgetError) for share in shares) == 2
    await conns[0].execute("TRUNCATE workers")
    for conn in conns:
        await conn.close()


async def test_the_engines_own_login_sees_who_holds_connections(small: TestServer, few: Connection) -> None:
    engine = await connect(small.url(user="starforge_engine"))
    before = await read_budget(engine)
    assert (before.used, before.others) == (2, 2)
    found = {(who.role, who.application): who.connections for who in await holders(engine)}
    assert found == {("tester", "starforge"): 1, ("starforge_engine", "starforge"): 1}
    await engine.close()


async def _starforge(small: TestServer, *words: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starforge", *words,
        env={**os.environ, "DATABASE_URL": small.url(), **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode()


@covers("Q-62", "Q-53", "G8")
async def test_on_a_small_server_workers_share_and_an_operator_always_gets_through(
    small: TestServer, few: Connection
) -> None:
    """FAULTS 25: the first worker has eight, a second is refused, and both a pause and a diagnosis work."""
    app = "tests.worker.marks:app"
    await enqueue_many(few, [NewJob("marks.wait", {"seconds": 0.0}) for _ in range(40)])
    async with a_worker(small.url(), app):
        await until(few, "SELECT count(*) FROM job_history", 40)
        assert await few.fetchval("SELECT connections FROM workers") == 8
        status, told = await _starforge(small, "worker", "--app", app, "--log-level", "error")
        assert status == 1
        assert "SF120: a worker with PG_POOL_MAX 8 needs 2 connections or more: max_connections 15" in told
        assert "= 0 free" in told
        assert "Traceback" not in told
        status, told = await _starforge(small, "queue", "pause", "mail", "--reason", "storm")
        assert (status, "queue 'mail' is paused" in told) == (0, True)
        status, told = await _starforge(small, "capacity", "--json")
        found: dict[str, Any] = json.loads(told)
        assert (found["capacity"], found["shares"], found["workers"]) == (9, 8, 1)
        assert (found["workers_fit"], found["workers_more"]) == (1, 0)
        by = {who["application"].split()[-2:][0]: who["connections"] for who in found["holders"]}
        assert "starforge" in by
        status, told = await _starforge(small, "capacity", PG_POOL_MAX="4")
        assert "= 9; / PG_POOL_MAX 4 = 2 workers in all" in told


async def test_when_others_hold_every_connection_the_superusers_still_learns_who(
    small: TestServer, few: Connection
) -> None:
    """What is refused to all others is said in one sentence; `capacity` names the holder."""
    async with AsyncExitStack() as stack:
        while True:
            try:
                hog = await connect(small.url(user="starforge_app"), application="hog")
            except Exception:
                break
            stack.push_async_callback(hog.close)
        status, told = await _starforge(
            small, "worker", DATABASE_URL=small.url(user="starforge_engine"), STARFORGE_PG_CONNECT_S="2"
        )
        assert (status, "too many clients" in told or "remaining connection slots" in told) == (3, True)
        status, told = await _starforge(small, "capacity", "--json")
        found = json.loads(told)
        assert (found["holders"][0]["application"], found["holders"][0]["connections"]) == ("hog", 11)
        assert found["free"] == 0


async def test_a_worker_that_gets_fewer_connections_than_it_asked_for_works_with_those(
    small: TestServer, few: Connection
) -> None:
    used = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name ~"
        " '^starforge (worker|supervisor|listener|upkeep)'"
    )
    idle = [await connect(small.url(user="starforge_app")) for _ in range(5)]
    await enqueue_many(few, [NewJob("marks.wait", {"seconds": 0.0}) for _ in range(100)])
    most = 0
    async with a_worker(small.url(), "tests.worker.marks:app"), asyncio.timeout(30):
        while await few.fetchval("SELECT count(*) FROM job_history") < 100:
            most = max(most, await few.fetchval(used))
            await asyncio.sleep(0.005)
        assert await few.fetchval("SELECT connections FROM workers") == 3
    assert 1 <= most <= 3
    for conn in idle:
        await conn.close()
