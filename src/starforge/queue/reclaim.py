"""Reclaim: jobs of workers that hold no lease any more are pending again."""

from __future__ import annotations

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.hint import CHANNEL, EVERYWHERE


async def reclaim(conn: Connection) -> int:
    """Make every running job without a living worker pending; return how many. No attempt is burnt."""
    rows = await conn.fetch(sql("queue", "reclaim"))
    if rows:
        # They are due since long ago: behind the watermarks of those who may run them.
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    return len(rows)
