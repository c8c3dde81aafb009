"""History: its partitions are made beside those who read and those who complete."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from starforge.db.pool import Connection, Pool
from starforge.queue.history import make_partitions

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
