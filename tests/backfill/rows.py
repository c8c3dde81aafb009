"""Backfills as rows, for tests of what shows them: nobody coordinates these."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from starforge.db.pool import Connection
from starforge.worker.registry import Registration, register


async def a_backfill(conn: Connection, asset: str = "orders", **columns: Any) -> UUID:
    """Insert a backfill with these columns and return its id."""
    given = {"id": uuid4(), "asset_name": asset, "job_type": f"asset:{asset}", **columns}
    names, places = ", ".join(given), ", ".join(f"${at}" for at in range(1, len(given) + 1))
    found: UUID = await conn.fetchval(
        f"INSERT INTO backfill_jobs ({names}) VALUES ({places}) RETURNING id", *given.values()
    )
    return found


async def now(conn: Connection, seconds: float = 0) -> Any:
    """Return the database's time, so many seconds from now."""
    return await conn.fetchval("SELECT sf_now() + make_interval(secs => $1)", float(seconds))


async def parts(conn: Connection, backfill_id: UUID, **states: int) -> None:
    """Give a backfill partitions: so many of each state, in this order, keys k000 on; and count them."""
    ordinal = 0
    for state, count in states.items():
        await conn.execute(
            "INSERT INTO backfill_partitions (backfill_job_id, partition_key, tenant_id, ordinal, state,"
            " attempt_count, completed_at) SELECT b.id, 'k' || lpad(n::text, 3, '0'), b.tenant_id, n, $2, 1,"
            " CASE WHEN $2 IN ('completed', 'failed', 'cancelled') THEN sf_now() END"
            " FROM backfill_jobs AS b, generate_series($3::int, $4::int) AS n WHERE b.id = $1",
            backfill_id, state, ordinal, ordinal + count - 1,
        )  # fmt: skip
        ordinal += count
    await conn.execute(
        "UPDATE backfill_jobs SET total_partitions = $2, completed_partitions = $3, failed_partitions = $4,"
        " cancelled_partitions = $5, checkpoint_partition_key = $6 WHERE id = $1",
        backfill_id, ordinal, *(states.get(name, 0) for name in ("completed", "failed", "cancelled")),
        f"k{states['completed'] - 1:03}" if states.get("completed") else None,
    )  # fmt: skip


async def a_backfill_worker(
    conn: Connection, *types: str, queues: tuple[str, ...] = ("backfill",), lease_s: float = 30
) -> UUID:
    """Register a worker of this process that serves backfills."""
    return await register(conn, Registration(queues, types or ("asset:orders",), 4), lease_s=lease_s)
