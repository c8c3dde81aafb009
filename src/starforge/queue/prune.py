"""Prune: what holds nothing any more is forgotten, in batches that stand in nobody's way.

Each function returns how many rows it deleted; fewer than PRUNE_BATCH means that there are no more.
"""

from __future__ import annotations

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.history import HistorySettings

PRUNE_BATCH = 5000

RECORD_DAYS = 7
"""Gates and overrides are kept this long after they expired."""


async def prune_keys(conn: Connection) -> int:
    """Forget a batch of unique and idempotency keys that hold no more."""
    kept_days = HistorySettings.read().history_days
    return _count(await conn.execute(sql("queue", "prune_keys"), kept_days, PRUNE_BATCH))


async def prune_progress(conn: Connection) -> int:
    """Forget a batch of what jobs that left long ago had said of themselves."""
    return _count(await conn.execute(sql("queue", "prune_progress"), PRUNE_BATCH))


async def prune_gates(conn: Connection) -> int:
    """Forget gates and overrides that expired long ago; they are few."""
    gates = _count(await conn.execute(sql("queue", "prune_gates"), RECORD_DAYS))
    return gates + _count(await conn.execute(sql("queue", "prune_overrides"), RECORD_DAYS))


def _count(tag: str) -> int:
    """Return the rows of a command's tag: 3 for "DELETE 3"."""
    return int(tag.rpartition(" ")[2])
