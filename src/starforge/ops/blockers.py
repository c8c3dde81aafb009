"""Blockers: who holds what an operation waits for, by process id, role and application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog

from starforge.db.pool import MAY_PASS, Connection, Pool
from starforge.db.statement import sql
from starforge.errors import told

log = structlog.get_logger("ops")

LOOK_S = 0.5
SHOWN_MAX = 3

GAVE_UP: tuple[type[Exception], ...] = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
)
"""What a statement meets that waited too long for others, or in a circle with them."""

UNSEEN: tuple[type[Exception], ...] = (asyncpg.PostgresError, *MAY_PASS)


@asynccontextmanager
async def blockers_named(pool: Pool, conn: Connection) -> AsyncIterator[None]:
    """Add to an error about a lock, as a note, who held it: what blocks `conn` is looked at meanwhile.

    What was running there is not told: the error may reach people who may not see other tenants' work.
    """
    pid = await conn.fetchval("SELECT pg_backend_pid()")
    seen: list[str] = []
    looking = asyncio.create_task(_look(pool, pid, seen))
    try:
        yield
    except GAVE_UP as error:
        if seen:
            error.add_note(f"held by {', '.join(seen)}")
        raise
    finally:
        looking.cancel()
        await asyncio.wait({looking})


async def _look(pool: Pool, pid: int, seen: list[str]) -> None:
    """Keep in `seen` who blocked the session last."""
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            async with pool.connection() as other:
                rows = await other.fetch(sql("ops", "blockers"), pid, SHOWN_MAX)
        except UNSEEN as error:
            log.info("blockers.unseen", error=told(error))
            return
        if rows:
            seen[:] = [_shown(row) for row in rows]


def _shown(row: asyncpg.Record) -> str:
    open_s = "" if row["open_s"] is None else f" for {row['open_s']:.0f} s"
    words = [row["role"], row["application"] or "no application name", f"{row['state']}{open_s}"]
    return f"process {row['pid']} ({', '.join(words)})"
