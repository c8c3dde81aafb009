"""Reclaim: jobs of workers that hold no lease any more are pending again."""

from __future__ import annotations

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.cancel import settled
from starforge.queue.hint import CHANNEL, EVERYWHERE


async def reclaim(conn: Connection) -> int:
    """Make every running job without a living worker pending; return how many. No attempt is burnt.

    One that was asked to end is cancelled instead: nobody is to run it again.
    """
    async with conn.transaction():
        reclaimed = await settled(conn, await conn.fetch(sql("queue", "reclaim")))
        if reclaimed:
            # They are due since long ago: behind the watermarks of those who may run them.
            await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    return len(reclaimed)
