"""What the tests of walks share: a table, a backfill over it, and an attempt at one of its partitions.

    python -m tests.backfill.walking DATABASE_URL

Run as a program it is an attempt that adds 1 to `n` of each row of `t`, and that a failpoint may kill.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from starforge.backfill.errors import PartitionOverError
from starforge.backfill.partition.partition import Cursor, Partition
from starforge.backfill.partition.walk import Change, Walked
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.scheme import Bounds, KeySpan
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.queue.context import Context, Host
from starforge.queue.job import LeasedJob
from starforge.worker.threads import Threads

TENANT = "default"

BACKFILL = """
    INSERT INTO backfill_jobs (tenant_id, asset_name, state, total_partitions, job_type)
    VALUES ($1, $2, 'running', 1, 'asset:' || $2) RETURNING id
"""
PARTITION = """
    INSERT INTO backfill_partitions (backfill_job_id, tenant_id, partition_key, ordinal, state)
    VALUES ($1, $2, $3, $4, 'pending')
"""
BEGIN = """
    UPDATE backfill_partitions
    SET state = 'running', attempt_count = attempt_count + 1, queue_job_id = $2, started_at = sf_now()
    WHERE backfill_job_id = $1
    RETURNING partition_key, ordinal, attempt_count, cursor
"""
ADD_ONE = "UPDATE t SET n = n + 1 WHERE id >= $1 AND id < $2"


async def add_one(conn: Connection, keys: KeySpan) -> None:
    """Change each row in a way that shows how often it was changed."""
    await conn.execute(ADD_ONE, keys.first, keys.end)


async def a_table(conn: Connection, rows: int, *, apart: int = 1) -> None:
    """Make the table that is walked: keys are `apart` from one another."""
    await conn.execute("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, seen timestamptz)")
    await conn.execute("INSERT INTO t (id) SELECT 1 + g * $2 FROM generate_series(0, $1 - 1) g", rows, apart)


async def a_backfill(conn: Connection, key: str, ordinal: int = 1, asset: str = "rows") -> UUID:
    """Make a running backfill of one partition."""
    backfill_id: UUID = await conn.fetchval(BACKFILL, TENANT, asset)
    await conn.execute(PARTITION, backfill_id, TENANT, key, ordinal)
    return backfill_id


async def an_attempt(
    pool: Pool, backfill_id: UUID, bounds: Callable[[str], Any]
) -> tuple[Context, Partition[Any]]:
    """Begin an attempt at the backfill's partition, as `run` does."""
    job_id = uuid4()
    async with pool.connection() as conn:
        row = await conn.fetchrow(BEGIN, backfill_id, job_id)
    assert row is not None
    key, ordinal, number = row["partition_key"], row["ordinal"], row["attempt_count"]

    async def store(value: Any, conn: Connection | None = None) -> None:
        values = backfill_id, ordinal, job_id, number, value
        if conn is not None:
            kept = await conn.fetchrow(sql("backfill", "advance"), *values)
        else:
            async with pool.connection() as own:
                kept = await own.fetchrow(sql("backfill", "advance"), *values)
        if kept is None:
            raise PartitionOverError(key, number)

    payload = {"backfill_id": str(backfill_id), "key": key, "ordinal": ordinal}
    job = LeasedJob(job_id, TENANT, "backfill", "asset:rows", payload, 0, 3, 1)
    partition: Partition[Bounds] = Partition(
        asset="rows",
        key=key,
        ordinal=ordinal,
        bounds=bounds(key),
        attempt=number,
        resume=Cursor(row["cursor"], store),
    )
    return Context(job, Host(pool, uuid4(), threads=Threads(1))), partition


async def walked(pool: Pool, backfill_id: UUID, change: Change = add_one) -> Walked:
    """Walk the backfill's partition in an attempt of its own."""
    ctx, partition = await an_attempt(pool, backfill_id, KeyRange("t").bounds)
    return await partition.walk(ctx, change)


async def times(pool: Pool) -> dict[int, int]:
    """Return how many rows were changed how often."""
    async with pool.connection() as conn:
        rows = await conn.fetch("SELECT n, count(*)::int AS rows FROM t GROUP BY n ORDER BY n")
    return {row["n"]: row["rows"] for row in rows}


async def _main(url: str) -> None:
    pool = await Pool.open(url, size=2)
    async with pool.connection() as conn:
        backfill_id = await conn.fetchval("SELECT id FROM backfill_jobs")
    await walked(pool, backfill_id)
    await pool.close()


def program(url: str) -> Awaitable[asyncio.subprocess.Process]:
    """Start this module as a program."""
    return asyncio.create_subprocess_exec(sys.executable, "-m", __name__, url)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
