"""Cancel: a job that waits or is held ends at once; a running one is asked to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.hint import CHANNEL, EVERYWHERE
from starforge.queue.job import LeasedJob

HINT = "cancel"
"""What is notified when running jobs were asked to end: their workers look at once."""

BATCH_MAX = 1000
FIRST = UUID(int=0)
TAGGED_MAX = 100_000
"""Most jobs that one cancel of a tag ends: its locks are held until it commits."""


async def cancel(conn: Connection, ids: Sequence[UUID], *, reason: str) -> dict[UUID, str]:
    """Cancel these jobs; return the status that each had, "cancelling" where it was asked to end before.

    Those that do not exist, or have ended, are missing.

    A running one is running still: its worker sees within a second that it is asked to end. It ends as
    cancelled unless it completes first; should its worker die, the job is cancelled and not run again.
    """
    rows = await conn.fetch(sql("queue", "cancel"), list(ids), reason)
    failpoint("after_cancel")
    before = {row["id"]: row["status"] for row in rows}
    if "running" in before.values():
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, HINT)
    return before


async def cancel_tagged(conn: Connection, tag: str, *, reason: str) -> tuple[dict[UUID, str], bool]:
    """Cancel the jobs with this tag; return what each was before, and whether some are left."""
    before: dict[UUID, str] = {}
    last = FIRST
    while len(before) < TAGGED_MAX:
        rows = await conn.fetch(sql("queue", "tagged"), tag, last, BATCH_MAX)
        if not rows:
            return before, False
        last = rows[-1]["id"]
        before |= await cancel(conn, [row["id"] for row in rows], reason=reason)
    return before, bool(await conn.fetch(sql("queue", "tagged"), tag, last, 1))


async def release(conn: Connection, job_id: UUID) -> dict[str, Any] | None:
    """Make a quarantined job pending; return what it was held for, or None where it is not quarantined.

    Where workers had died under it, they are forgotten, and its next attempt runs alone.
    """
    row = await conn.fetchrow(sql("queue", "release"), job_id)
    if row is None:
        return None
    await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    held: dict[str, Any] = row["last_error"] if isinstance(row["last_error"], dict) else {}
    return held


async def cancel_running(
    conn: Connection,
    jobs: Sequence[LeasedJob],
    reasons: Sequence[str],
    ran_ms: Sequence[float],
    *,
    worker_id: UUID,
) -> set[UUID]:
    """End running jobs as cancelled, under their leases; return the ids that were accepted."""
    failpoint("before_cancel_running")
    ids, epochs = [job.id for job in jobs], [job.lease_epoch for job in jobs]
    rows = await conn.fetch(sql("queue", "cancel_running"), ids, epochs, reasons, ran_ms, worker_id)
    return {row[0] for row in rows}


async def settled(conn: Connection, rows: Sequence[asyncpg.Record]) -> set[UUID]:
    """Return the ids of rows (id, asked) that a worker let go of; end those that were asked to end.

    The caller's transaction holds both. A job that slipped through is cancelled by its next worker.
    """
    if asked := [row["id"] for row in rows if row["asked"]]:
        await conn.fetch(sql("queue", "cancel_asked"), asked)
    return {row["id"] for row in rows}


async def cancelling(conn: Connection, worker_id: UUID) -> dict[UUID, str]:
    """Return the running jobs of a worker that were asked to end, with the reasons."""
    rows = await conn.fetch(sql("queue", "cancelling"), worker_id)
    return {row["id"]: row["cancel_reason"] for row in rows}
