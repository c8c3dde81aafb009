"""History: its partitions are made beside those who read and those who complete."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.complete import complete
from starforge.queue.enqueue import enqueue, enqueue_many
from starforge.queue.fail import fail, quarantine
from starforge.queue.history import make_partitions
from starforge.queue.job import NewJob
from starforge.queue.retry import retry
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed

PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'job_history'::regclass"
COMPLETED = (
    "INSERT INTO job_history (id, tenant_id, queue, type, payload, priority, status, attempts, max_attempts,"
    " run_after, lease_epoch, created_at, completed_at)"
    " VALUES ($1, 'default', 'default', 't', '{}', 0, 'completed', 0, 5, sf_now(), 1, sf_now(), sf_now())"
)


async def test_partitions_are_made_once_and_have_the_indexes_of_the_history(conn: Connection) -> None:
    before = await conn.fetchval(PARTITIONS)
    assert await make_partitions(conn, days=9) > 0
    assert await make_partitions(conn, days=9) == 0
    assert await conn.fetchval(PARTITIONS) == 11 > before  # ten days and the default
    newest = await conn.fetchval(
        "SELECT 'job_history_' || to_char((sf_now() AT TIME ZONE 'UTC')::date + 9, 'YYYYMMDD')"
    )
    assert await conn.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = $1", newest) == 2
    assert await conn.fetchval("SELECT relowner::regrole::text FROM pg_class WHERE relname = $1", newest) == (
        "starforge_owner"
    )
    with pytest.raises(asyncpg.CheckViolationError, match="job_history_status"):
        await conn.execute(COMPLETED.replace("'completed'", "'done'"), uuid4())


async def test_a_long_reader_of_history_delays_a_partition_and_no_completion(pool: Pool) -> None:
    """CREATE … PARTITION OF would queue for the whole table, and every completion behind it."""
    async with pool.transaction() as reader, pool.connection() as worker, pool.connection() as finisher:
        await reader.fetchval("SELECT count(*) FROM job_history")
        await finisher.execute("SET statement_timeout = '500ms'")
        task = asyncio.create_task(make_partitions(worker, days=5))
        while not await finisher.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = $1 AND NOT granted)", worker.get_server_pid()
        ):
            assert not task.done()
        await finisher.execute(COMPLETED, uuid4())
        with pytest.raises(asyncpg.LockNotAvailableError):
            await task
    async with pool.connection() as worker:
        assert await make_partitions(worker, days=5) == 3


@covers("Q-13", "G12")
async def test_every_finished_attempt_is_counted_once_in_the_minute_that_it_ended_in(
    conn: Connection,
) -> None:
    await enqueue_many(conn, [NewJob("t") for _ in range(7)])
    worker_id = await a_worker(conn)
    jobs = await claimed(conn, worker_id)
    assert await complete(conn, jobs[:3], [10.0, 20.0, 30.0], worker_id=worker_id)
    assert await complete(conn, jobs[2:4], [5.0, 5.0], worker_id=worker_id) == {jobs[3].id}
    error = {"reason": "r"}
    await retry(conn, [jobs[4]], [error], [60.0], worker_id=worker_id)
    await fail(conn, [jobs[5]], [error], worker_id=worker_id)
    await quarantine(conn, [jobs[6]], [error], worker_id=worker_id)
    [row] = await conn.fetch(
        "SELECT queue, type, worker_id, completed, retried, failed, quarantined, ran_ms, ran_ms_max"
        " FROM job_minutes"
    )
    assert tuple(row) == ("default", "t", worker_id, 4, 1, 1, 1, 65.0, 30.0)


async def test_what_a_job_returned_and_carried_is_found_in_its_history(conn: Connection) -> None:
    await enqueue(conn, NewJob("t", tags=["a", "b"], trace="00-1-2-01"))
    worker_id = await a_worker(conn)
    [job] = await claimed(conn, worker_id)
    assert (job.tags, job.trace) == (("a", "b"), "00-1-2-01")
    await complete(conn, [job], [1.0], worker_id=worker_id, results=['{"rows": 3}'])
    row = await conn.fetchrow("SELECT tags, trace, result FROM job_history WHERE id = $1", job.id)
    assert row is not None
    assert tuple(row) == (["a", "b"], "00-1-2-01", {"rows": 3})
