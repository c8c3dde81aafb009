"""Follow one backfill to its end, also where the database is away for a while.                     (B-25)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from starforge.backfill.show.status import Status, status
from starforge.clock import monotonic_s
from starforge.db.pool import DATABASE_AWAY, Pool, set_tenant

LOOK_S = 0.5
LOOK_S_MAX = 5.0
"""A look that takes longer is given up: its connection is cut, and the database counts as away."""


@dataclass(frozen=True, slots=True)
class Away:
    """The database does not answer; the backfill may well go on."""

    since_s: float
    """For how long already."""

    told: str


async def follow(
    pool: Pool, backfill_id: UUID, tenant: str, *, every_s: float = LOOK_S
) -> AsyncIterator[Status | Away]:
    """Yield a look at a backfill every so often, until it has ended; that look is the last one.

    The caller bounds it. Raises: UnknownBackfillError.
    """
    away_from_s: float | None = None
    while True:
        look: Status | Away
        try:
            look = await _look(pool, backfill_id, tenant)
            away_from_s = None
        except DATABASE_AWAY as error:
            now_s = monotonic_s()
            away_from_s = now_s if away_from_s is None else away_from_s
            look = Away(now_s - away_from_s, (str(error) or type(error).__name__).splitlines()[0])
        yield look
        if isinstance(look, Status) and look.ended:
            return
        await asyncio.sleep(every_s)


async def _look(pool: Pool, backfill_id: UUID, tenant: str) -> Status:
    loop = asyncio.get_running_loop()
    async with pool.connection() as conn:
        # A frozen server answers nothing, not even to a cancellation.
        cut = loop.call_later(LOOK_S_MAX, conn.terminate)
        try:
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                await set_tenant(conn, tenant)
                return await status(conn, backfill_id)
        finally:
            cut.cancel()
