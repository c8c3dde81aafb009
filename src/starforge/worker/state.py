"""The state of the database that a page of metrics shows: the queue's, backfills, and how upkeep goes."""

from __future__ import annotations

from dataclasses import replace

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.reads import state
from starforge.telemetry.state import State
from starforge.worker.upkeep import ages

ACTIVE = ("pending", "running", "paused", "resuming")


async def read_state(conn: Connection) -> State:
    """Read what the gauges show; of one moment in a transaction that is."""
    row = await conn.fetchrow(sql("worker", "backfills"))
    assert row is not None
    return replace(
        await state(conn),
        upkeep_age_s=await ages(conn),
        backfills={(name,): row["states"].get(name, 0) for name in ACTIVE},
        backfill_eta_s={(): max(row["eta_s"], 0.0)},
        backfill_heartbeat_s={(): row["heartbeat_s"]},
        backfill_progress_s={(): row["progress_s"]},
        backfills_throttled={(reason,): count for reason, count in row["throttled"].items()},
    )
