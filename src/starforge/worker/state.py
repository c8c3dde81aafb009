"""The state of the database that a page of metrics shows: the queue's, and how upkeep goes."""

from __future__ import annotations

from dataclasses import replace

from starforge.db.pool import Connection
from starforge.queue.reads import state
from starforge.telemetry.state import State
from starforge.worker.upkeep import ages


async def read_state(conn: Connection) -> State:
    """Read what the gauges show; of one moment in a transaction that is."""
    return replace(await state(conn), upkeep_age_s=await ages(conn))
