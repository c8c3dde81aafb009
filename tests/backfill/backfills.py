"""Backfills as their rows would be in each state, made without a coordinator."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from starforge.db.pool import Connection, Pool

LIVE = ("pending", "running", "paused", "resuming")
TERMINAL = ("completed", "failed", "cancelled")
ANN: dict[str, Any] = {"actor": "ann", "role": "operator", "tenant": "default"}
WHY = "the source is down"

PARTITIONS = """
INSERT INTO backfill_partitions (backfill_job_id, partition_key, tenant_id, ordinal, state, attempt_count,
    error_message, fingerprint)
SELECT $1, 'p' || n, $2, n, state, 1, CASE state WHEN 'failed' THEN 'boom' END,
    CASE state WHEN 'failed' THEN 'f' || n % 2 END
FROM unnest($3::text[]) WITH ORDINALITY AS given (state, n)
"""


async def a_backfill(
    conn: Connection,
    state: str = "running",
    *parts: str,
    tenant: str = "default",
    asset: str = "daily",
    **columns: Any,
) -> UUID:
    """Make a backfill in a state, with a partition in each of these states, counted and checkpointed."""
    ended = [part in TERMINAL for part in parts]
    reached = ended.index(False) if False in ended else len(parts)
    told: dict[str, Any] = {
        "tenant_id": tenant,
        "asset_name": asset,
        "state": state,
        "job_type": f"asset:{asset}",
        "total_partitions": len(parts),
        "completed_partitions": parts.count("completed"),
        "failed_partitions": parts.count("failed"),
        "checkpoint_partition_key": f"p{reached}" if reached else None,
        "checkpoint_ordinal": reached or None,
        "version": 5,
        **columns,
    }
    marks = ", ".join(f"${n}" for n in range(1, len(told) + 1))
    backfill_id: UUID = await conn.fetchval(
        f"INSERT INTO backfill_jobs ({', '.join(told)}) VALUES ({marks}) RETURNING id", *told.values()
    )
    await conn.execute(PARTITIONS, backfill_id, tenant, list(parts))
    if state == "running":
        await conn.execute(
            "UPDATE backfill_jobs SET heartbeat_at = sf_now(), worker_id = gen_random_uuid(), lease_epoch = 3"
            " WHERE id = $1 AND heartbeat_at IS NULL",
            backfill_id,
        )
    return backfill_id


async def row_of(pool: Pool, backfill_id: UUID) -> dict[str, Any]:
    """Return the backfill's row, with the age of its heartbeat in seconds."""
    async with pool.connection() as conn:
        row = await conn.fetchrow(
            "SELECT *, extract(epoch FROM sf_now() - heartbeat_at)::float8 AS age_s"
            " FROM backfill_jobs WHERE id = $1",
            backfill_id,
        )
    assert row is not None
    return dict(row)


async def made(pool: Pool, state: str = "running", *parts: str, **columns: Any) -> UUID:
    """Make a backfill and commit it."""
    async with pool.connection() as conn:
        return await a_backfill(conn, state, *parts, **columns)
