"""Row 26: the queue's tables are locked, transactions deadlock or cannot be serialized."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest

from starforge.db.pool import Pool, connect
from starforge.ops.errors import RowsBusyError
from starforge.ops.perform import perform
from starforge.ops.plan import plan
from starforge.queue.enqueue import enqueue_many
from starforge.queue.handler import Context, JobType
from starforge.queue.job import NewJob
from starforge.worker import finish
from tests.covers import covers
from tests.faults.scene import Scene
from tests.worker.test_run import until, working

ANN: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
WAITS_OR_DONE = (
    f"SELECT greatest(({WAITS}), (SELECT count(*) / 2 FROM job_history WHERE status = 'completed'))"
)


@covers("G2", "G8")
async def test_a_table_that_is_locked_again_and_again_delays_jobs_and_neither_loses_nor_fails_any(
    scene: Scene,
) -> None:
    """Each wait is longer than the lock timeout: claims, completions, heartbeats and upkeep all meet it."""
    name = scene.database.rpartition("/")[2]
    await scene.conn.execute(f"ALTER DATABASE {name} SET lock_timeout = '100ms'")
    short = {"STARFORGE_LEASE_S": "5", "WORKER_CONCURRENCY": "4"}
    locker = await connect(scene.database)
    async with scene.worker(**short), scene.worker(**short):
        await scene.until("SELECT count(*) FROM workers WHERE state = 'running'", 2)
        for tables in (
            "queue_jobs",
            "workers",
            "queue_jobs, workers, job_history",
            "job_minutes, queue_jobs",
        ):
            await scene.history.enqueue(scene.conn, *(NewJob("faults.nothing") for _ in range(50)))
            async with locker.transaction():
                await locker.execute(
                    f"SET LOCAL lock_timeout = 0; LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"
                )
                for _ in range(16):
                    await asyncio.sleep(0.05)
        await scene.drained()
    await locker.close()
    verdict = await scene.check()
    verdict.assert_sound()
    assert (verdict.statuses, verdict.attempts) == ({"completed": 200}, {0: 200})
    assert await scene.conn.fetchval("SELECT count(*) FROM workers WHERE state = 'dead'") == 0


@pytest.fixture
async def hasty(pool: Pool, database: str) -> AsyncIterator[Pool]:
    """A pool whose statements wait for locks for a second and a half."""
    async with pool.connection() as conn:
        await conn.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET lock_timeout = '1500ms'")
    opened = await Pool.open(database, size=2)
    yield opened
    await opened.close()


@covers("G8")
async def test_an_operation_that_waited_too_long_names_who_holds_what_it_waits_for(
    pool: Pool, hasty: Pool, database: str
) -> None:
    psql = await connect(database, application="psql")
    pause = {"name": "mail", "reason": "storm"}
    async with psql.transaction():
        await psql.execute("LOCK TABLE gates IN ACCESS EXCLUSIVE MODE")
        pid = await psql.fetchval("SELECT pg_backend_pid()")
        held = rf"held by process {pid} \(tester, psql, idle in transaction for \d+ s\)"
        with pytest.raises(RowsBusyError, match=held):
            await perform(hasty, "queue pause", pause, **ANN)
        with pytest.raises(RowsBusyError, match=held):
            await plan(hasty, "queue pause", pause, **ANN)
    assert (await perform(hasty, "queue pause", pause, **ANN)).changed == 1
    await psql.close()


async def _in_step(pool: Pool) -> tuple[JobType, asyncio.Event]:
    may_end = asyncio.Event()

    async def waits(_ctx: Context, _payload: Mapping[str, Any]) -> None:
        await may_end.wait()

    return JobType("waits", waits), may_end


@covers("G3")
async def test_a_completion_that_deadlocks_with_a_hand_is_written_again(pool: Pool, database: str) -> None:
    """Two jobs end in one statement; somebody holds the one and then wants the other."""
    kind, may_end = await _in_step(pool)
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("waits"), NewJob("waits")])
    psql = await connect(database, application="psql")
    async with working(pool, kind):
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'running'", 2)
        rows = await psql.fetch("SELECT id FROM queue_jobs ORDER BY id")
        for first, then in ((0, 1), (1, 0)):
            transaction = psql.transaction()
            await transaction.start()
            hold = "UPDATE queue_jobs SET updated_at = updated_at WHERE id = $1"
            await psql.execute(hold, rows[first]["id"])
            may_end.set()
            # Where the statement takes them in the hand's order both complete: then nobody waits again.
            await until(pool, WAITS_OR_DONE, 1)
            try:
                await psql.execute(hold, rows[then]["id"])
            except asyncpg.DeadlockDetectedError:
                await transaction.rollback()
            else:
                await transaction.commit()
        await until(pool, "SELECT count(*) FROM job_history WHERE status = 'completed'", 2)
    await psql.close()


async def _nothing(_ctx: Context, _payload: Mapping[str, Any]) -> None:
    return None


@pytest.mark.parametrize("commits", [True, False], ids=["it commits in the end", "it rolls back"])
@covers("X-14", "G3")
async def test_a_hand_that_does_not_commit_holds_up_the_one_job_and_no_other(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch, commits: bool
) -> None:
    """Somebody fails a running job by hand and goes for lunch: its completion waits, the others' do not."""
    monkeypatch.setattr(finish, "LOCK_S", 0.3)
    kind, may_end = await _in_step(pool)
    psql = await connect(database, application="psql")
    async with pool.connection() as conn:
        await enqueue_many(conn, [NewJob("waits")])
    async with working(pool, kind, JobType("nothing", _nothing)):
        await until(pool, "SELECT count(*) FROM queue_jobs WHERE status = 'running'", 1)
        lunch = psql.transaction()
        await lunch.start()
        await psql.execute("UPDATE queue_jobs SET status = 'failed'")
        may_end.set()
        for _ in range(3):
            async with pool.connection() as conn:
                await enqueue_many(conn, [NewJob("nothing") for _ in range(100)])
        await until(pool, "SELECT count(*) FROM job_history WHERE type = 'nothing'", 300)
        await (lunch.commit() if commits else lunch.rollback())
        if not commits:
            await until(pool, "SELECT count(*) FROM job_history WHERE type = 'waits'", 1)
    await psql.close()
    async with pool.connection() as conn:
        left = await conn.fetch("SELECT status FROM queue_jobs")
        ended = await conn.fetchval("SELECT count(*) FROM job_history WHERE type = 'waits'")
    assert ([row[0] for row in left], ended) == ((["failed"], 0) if commits else ([], 1))


@covers("G2", "G3")
async def test_transactions_that_cannot_be_serialized_are_tried_again(pool: Pool, database: str) -> None:
    """With REPEATABLE READ as the database's default claims and completions of two workers collide."""
    ran: list[object] = []

    async def note(ctx: Context, _payload: Mapping[str, Any]) -> None:
        ran.append(ctx.job.id)

    name = database.rpartition("/")[2]
    async with pool.connection() as conn:
        await conn.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    strict = await Pool.open(database, size=8)
    async with working(strict, JobType("note", note)), working(strict, JobType("note", note)):
        async with pool.connection() as conn:
            for _ in range(40):
                await enqueue_many(conn, [NewJob("note") for _ in range(10)])
        await until(pool, "SELECT count(*) FROM job_history", 400)
    await strict.close()
    assert len(ran) >= 400
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT count(DISTINCT id) FROM job_history") == 400
        assert await conn.fetchval("SELECT max(attempts) FROM job_history") == 0


@covers("G2")
async def test_handlers_that_deadlock_with_each_other_are_run_again_and_end_well(scene: Scene) -> None:
    await scene.conn.execute("CREATE TABLE pairs (id int PRIMARY KEY, n int); GRANT ALL ON pairs TO PUBLIC")
    await scene.conn.execute("INSERT INTO pairs VALUES (1, 0), (2, 0)")
    one, other = {"first": 1, "second": 2}, {"first": 2, "second": 1}
    await scene.history.enqueue(
        scene.conn, *(NewJob("faults.deadlock", pair) for pair in (one, other, one, other))
    )
    async with scene.worker(STARFORGE_BACKOFF_BASE_S="0.1"):
        await scene.drained()
    verdict = await scene.check()
    verdict.assert_sound()
    assert verdict.statuses == {"completed": 4}
    assert [row["n"] for row in await scene.conn.fetch("SELECT n FROM pairs")] == [4, 4]
    assert verdict.ran_again, "nothing deadlocked"
