"""Reclaim: jobs of workers that hold no lease any more are pending again."""

from __future__ import annotations

from starforge.db.pool import Connection
from starforge.db.statement import sql


async def reclaim(conn: Connection) -> int:
    """Make every running job without a living worker pending; return how many. No attempt is burnt."""
    return len(await conn.fetch(sql("queue", "reclaim")))
