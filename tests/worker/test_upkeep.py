"""Upkeep: the leader's tasks are done on time, whoever leads, and none of them is in another's way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from starforge.clock import FAILPOINTS_ENV, monotonic_s
from starforge.db.leader import Lease
from starforge.db.pool import Connection, Pool, connect
from starforge.ops.plan import prune_plans
from starforge.queue import prune
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.telemetry import metrics
from starforge.worker import duties, upkeep
from starforge.worker.upkeep import Task, Upkeep, ages, in_batches, unfenced
from tests.conftest import Travel
from tests.covers import covers
from tests.queue.jobs import a_worker as register
from tests.queue.jobs import claimed
from tests.queue.test_schedule import a_lease
from tests.worker.marks import TABLE
from tests.worker.test_supervise import a_worker, until

CLOCKED = "tests.worker.clocked:app"
LEADER = "SELECT who FROM leases WHERE name = 'upkeep' AND expires_at > sf_now()"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    conn = await connect(database)
    await conn.execute(TABLE)
    yield conn
    await conn.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "NOTE_S", 0.05)
    monkeypatch.setattr(upkeep, "RETRY_S", 0.02)
    monkeypatch.setattr(upkeep, "RETRY_S_MIN", 0.05)


@asynccontextmanager
async def kept(pool: Pool, *tasks: Task, **told: Any) -> AsyncIterator[Upkeep]:
    """Run these tasks for the length of a `with` block."""
    stop = asyncio.Event()
    keeper = Upkeep(pool.connection, tasks, lease_s=told.pop("lease_s", 5), **told)
    running = asyncio.create_task(keeper.run(stop))
    try:
        yield keeper
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def runs(task: str, result: str) -> float:
    value = metrics._REGISTRY.get_sample_value(
        "starforge_upkeep_runs_total", {"task": task, "result": result}
    )
    return value or 0.0


class Counted:
    """A task's work that counts its runs."""

    def __init__(self, work: Callable[[Connection], Awaitable[object]] | None = None) -> None:
        self.runs, self._work = 0, work

    async def __call__(self, conn: Connection, _lease: Lease) -> bool:
        self.runs += 1
        if self._work is not None:
            await self._work(conn)
        return False


async def test_a_task_that_fails_is_counted_and_noted_and_stops_none_of_the_others(pool: Pool) -> None:
    async def fail(conn: Connection) -> None:
        await conn.execute("SELECT 1/0")

    bad, good = Counted(fail), Counted()
    async with kept(pool, Task("t1_bad", 0.02, bad), Task("t1_good", 0.02, good)), pool.connection() as conn:
        await _until(lambda: bad.runs >= 3 and good.runs >= 10)
        await until(conn, "SELECT count(*) FROM upkeep_tasks WHERE done_at IS NOT NULL", 1)
        rows = {row["name"]: row for row in await conn.fetch("SELECT * FROM upkeep_tasks")}
        assert rows["t1_bad"]["error"] == "division by zero"
        assert rows["t1_bad"]["done_at"] is None
        assert rows["t1_good"]["error"] is None
        assert set(await ages(conn)) == {("t1_bad",), ("t1_good",)}
    assert runs("t1_bad", "failure") >= 3
    assert runs("t1_bad", "success") == 0
    assert runs("t1_good", "success") >= 10


async def test_a_fault_of_ours_in_a_task_ends_neither_the_term_nor_the_others(pool: Pool) -> None:
    async def fault(conn: Connection) -> None:
        raise KeyError("a fault of ours")

    bad, good = Counted(fault), Counted()
    async with kept(pool, Task("bad", 0.02, bad), Task("good", 0.02, good)), pool.connection() as conn:
        await _until(lambda: bad.runs >= 2 and good.runs >= 5)
        assert await conn.fetchval("SELECT epoch FROM leases") == 1


@pytest.mark.parametrize("own", [True, False])
async def test_a_task_that_takes_too_long_is_cut_and_the_others_go_on(
    pool: Pool, database: str, own: bool
) -> None:
    async def sleep(conn: Connection) -> None:
        await conn.execute("SELECT pg_sleep(60)")

    slow, good = Counted(sleep), Counted()
    tasks = (Task("slow", 0.02, slow, most_s=0.1), Task("good", 0.02, good))
    opens: dict[str, Any] = {"own": lambda: connect(database)} if own else {}
    async with kept(pool, *tasks, **opens):
        await _until(lambda: slow.runs >= 2 and good.runs >= 4)


async def _until_another(pids: list[int]) -> None:
    seen = len(pids)
    await _until(lambda: len(pids) > seen)


async def test_a_connection_that_was_cut_costs_one_run_and_no_more(pool: Pool, database: str) -> None:
    """FAULTS 11: pg_terminate_backend on the leader."""
    pids: list[int] = []

    async def note(conn: Connection) -> None:
        pids.append(await conn.fetchval("SELECT pg_backend_pid()"))

    other = await connect(database)
    async with kept(pool, Task("note", 0.02, unfenced(note)), own=lambda: connect(database)):
        for _ in range(3):
            await _until_another(pids)
            await other.execute("SELECT pg_terminate_backend($1)", pids[-1])
        await _until_another(pids)
        assert await other.fetchval("SELECT epoch FROM leases") == 1
    await other.close()


async def test_a_task_with_much_to_do_lets_the_others_in_between(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SLICE_S", 0.02)
    monkeypatch.setattr(upkeep, "AGAIN_S", 0.01)
    left = 200
    between: list[int] = []

    async def delete(conn: Connection) -> int:
        nonlocal left
        await asyncio.sleep(0.001)
        left -= 1
        return 10 if left else 3

    async def look(conn: Connection) -> None:
        between.append(left)

    tasks = (Task("much", 3600, in_batches(delete, 10)), Task("look", 0.01, unfenced(look)))
    async with kept(pool, *tasks):
        await _until(lambda: left == 0)
        await _until(lambda: 0 in between)
    assert len(set(between)) > 3


async def test_two_tasks_of_one_name_are_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="two tasks of upkeep have one name"):
        Upkeep(pool.connection, [Task("a", 1, unfenced(prune.prune_gates))] * 2, lease_s=1)


async def test_a_leader_that_lost_its_lease_writes_no_note(pool: Pool) -> None:
    async def depose(conn: Connection) -> None:
        await conn.execute("UPDATE leases SET epoch = epoch + 1, holder = gen_random_uuid()")

    async with kept(pool, Task("depose", 3600, unfenced(depose)), lease_s=60), pool.connection() as conn:
        await until(conn, "SELECT epoch FROM leases", 2)
        await asyncio.sleep(0.05)
        assert await conn.fetchval("SELECT count(*) FROM upkeep_tasks") == 0


async def test_the_jobs_of_a_worker_whose_lease_ran_out_are_pending_in_the_moment_it_is_dead(
    conn: Connection, travel: Travel
) -> None:
    worker = await register(conn)
    await enqueue(conn, NewJob("t"))
    assert await claimed(conn, worker)
    await duties.rescue(conn)
    assert await conn.fetchval("SELECT status FROM queue_jobs") == "running"
    await travel(conn, seconds=31)
    await duties.rescue(conn)
    assert await conn.fetchval("SELECT status FROM queue_jobs") == "pending"
    assert await conn.fetchval("SELECT state FROM workers") == "dead"


async def test_every_duty_runs_as_the_engine_may(db: Connection, database: str) -> None:
    """Also the first time, on a database that has nothing yet."""
    tasks = [*duties.duties(), Task("plans", 1, unfenced(prune_plans)), duties.Gauges().task()]
    conn = await connect(database)
    await conn.execute("SET ROLE starforge_engine")
    lease = await a_lease(conn)
    for task in tasks:
        await task.work(conn, lease)
    assert await conn.fetchval("SELECT count(*) FROM job_minutes") == 1
    await conn.close()


@covers("D-12")
async def test_a_leader_that_is_killed_is_followed_within_its_lease_and_its_jobs_are_rescued(
    db: Connection, database: str, tmp_path: Path
) -> None:
    """Of two workers on different machines, with a home each, only the lease tells that the other is gone."""
    async with a_worker(database, STARFORGE_LEASE_S="2") as first:
        await until(db, LEADER + " AND who LIKE '%' || $1", await _who(db), str(first.pid))
        await db.execute("UPDATE workers SET machine = 'elsewhere'")
        await enqueue(db, NewJob("marks.wait", {"seconds": 600.0}))
        await until(db, "SELECT count(*) FROM marks", 1)
        async with a_worker(database, STARFORGE_LEASE_S="2", STARFORGE_HOME=str(tmp_path)) as second:
            await until(db, "SELECT count(*) FROM workers", 2)
            os.killpg(first.pid, signal.SIGKILL)
            await until(db, "SELECT count(*) FROM marks", 2)
            async with asyncio.timeout(20):
                while not (await _who(db)).endswith(f"process {second.pid}"):
                    await asyncio.sleep(0.02)
    assert await db.fetchval("SELECT epoch FROM leases WHERE name = 'upkeep'") >= 2


async def _who(db: Connection) -> str:
    async with asyncio.timeout(20):
        while (who := await db.fetchval(LEADER)) is None:
            await asyncio.sleep(0.02)
    return str(who)


async def test_a_worker_that_stops_hands_the_lead_over_at_once(db: Connection, database: str) -> None:
    async with a_worker(database) as first:
        assert (await _who(db)).endswith(f"process {first.pid}")
        first.send_signal(signal.SIGTERM)
        await asyncio.wait_for(first.wait(), 20)
    assert await db.fetchval(LEADER) is None


async def test_a_workers_app_is_declared_at_its_start_and_ticks(db: Connection, database: str) -> None:
    async with a_worker(database, CLOCKED):
        await until(db, "SELECT count(*) FROM schedules", 1)
        await db.execute("UPDATE schedules SET next_at = next_at - interval '3 days'")
        wanted = (
            "SELECT array_agg(to_char((next_at - make_interval(days => n)) AT TIME ZONE 'UTC',"
            ' \'YYYY-MM-DD"T"HH24:MI:SS"Z"\') ORDER BY n DESC) FROM schedules, generate_series(1, 3) AS n'
        )
        await until(db, "SELECT count(*) FROM marks", 3)
        made = await db.fetchval("SELECT array_agg(what ORDER BY what) FROM marks")
        assert made == await db.fetchval(wanted)


async def test_a_leading_worker_killed_between_fetch_and_insert_leaves_each_tick_to_the_next(
    db: Connection, database: str
) -> None:
    """FAULTS 37, with real workers: each dies at its first tick, but the last."""
    environment = {"STARFORGE_LEASE_S": "1.5"}
    async with a_worker(database, CLOCKED, **environment) as warm:
        await until(db, "SELECT count(*) FROM schedules", 1)
        warm.send_signal(signal.SIGTERM)
        await asyncio.wait_for(warm.wait(), 20)
    await db.execute("UPDATE schedules SET next_at = next_at - interval '3 days'")
    for failpoint in ("schedules_fetched", "schedule_advanced", "schedule_before_commit"):
        async with a_worker(
            database, CLOCKED, **environment, **{FAILPOINTS_ENV: f"{failpoint}:kill"}
        ) as killed:
            assert await asyncio.wait_for(killed.wait(), 30) == -9
        assert await db.fetchval("SELECT count(*) FROM job_keys") == 0
    async with a_worker(database, CLOCKED, **environment):
        await until(db, "SELECT count(*) FROM job_history", 3)
    assert await db.fetchval("SELECT count(DISTINCT what) FROM marks") == 3
    assert await db.fetchval("SELECT count(*) FROM queue_jobs") == 0


async def test_a_leader_whose_connections_are_cut_again_and_again_loses_and_doubles_no_tick(
    db: Connection, database: str
) -> None:
    """FAULTS 11: both of the leader's back ends, its lease's and its tasks'."""
    async with a_worker(database, CLOCKED):
        await until(db, "SELECT count(*) FROM schedules", 1)
        await _who(db)
        for days in range(3, 13, 3):
            await db.execute("UPDATE schedules SET next_at = next_at - make_interval(days => $1)", days)
            for _ in range(3):
                await db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database()"
                    " AND application_name IN ('starforge upkeep', 'starforge supervisor')"
                )
                await asyncio.sleep(0.05)
            await until(db, "SELECT next_at > sf_now() FROM schedules", True)
        await until(db, "SELECT count(*) FROM job_history", 12)
    assert await db.fetchval("SELECT count(DISTINCT what) FROM marks") == 12
    assert await db.fetchval("SELECT count(*) FROM marks") == 12


USED = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'starforge %'"
)


@pytest.mark.parametrize(("connections", "upkeeps"), [("5", 0), ("6", 1), ("8", 1)])
async def test_upkeep_has_a_connection_of_its_own_only_where_there_are_enough(
    db: Connection, database: str, connections: str, upkeeps: int
) -> None:
    async with a_worker(database, PG_POOL_MAX=connections, WORKER_CONCURRENCY="20"):
        for _ in range(40):
            await enqueue(db, NewJob("marks.wait", {"seconds": 0.02}))
        most = 0
        async with asyncio.timeout(30):
            while await db.fetchval("SELECT count(*) FROM job_history") < 40:
                most = max(most, await db.fetchval(USED))
                await asyncio.sleep(0.005)
        await _who(db)
        await until(db, USED + " AND application_name LIKE '% upkeep'", upkeeps)
    assert most <= int(connections)


BEATEN = "SELECT heartbeat_at - started_at > interval '3.5 s' FROM workers WHERE state = 'running'"


async def test_upkeep_that_waits_for_a_lock_costs_no_worker_its_lease(db: Connection, database: str) -> None:
    other = await connect(database)
    for connections in ("2", "8"):
        async with a_worker(
            database, STARFORGE_LEASE_S="1.5", PG_POOL_MAX=connections, WORKER_CONCURRENCY="1"
        ):
            state = "SELECT count(*) FROM workers WHERE state = 'running'"
            await until(db, state, 1)
            async with other.transaction():
                await other.execute("LOCK TABLE schedules, job_minutes, gates")
                await until(db, BEATEN, True)
            assert await db.fetchval(state) == 1
        await db.execute("DELETE FROM workers")
    await other.close()


async def test_what_only_makes_sure_and_takes_long_comes_less_often_and_not_too_seldom(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: dict[str, list[float]] = {"spare": [], "seldom": [], "plain": []}

    def slow(name: str) -> Task:
        async def work(_conn: Connection) -> None:
            began[name].append(monotonic_s())
            await asyncio.sleep(0.02)

        return Task(name, 0.01, unfenced(work), share_max={"spare": 0.1, "seldom": 0.001}.get(name, 1.0))

    monkeypatch.setattr(upkeep, "REST_S_MAX", 0.3)
    async with kept(pool, *map(slow, began)):
        async with asyncio.timeout(20):
            while len(began["seldom"]) < 4:
                await asyncio.sleep(0.01)
    rests = {name: min(b - a for a, b in pairwise(times)) for name, times in began.items()}
    assert rests["plain"] < 0.2 <= rests["spare"]
    assert rests["seldom"] >= 0.3
