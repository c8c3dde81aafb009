"""Claim these: jobs that were named become a worker's, for one that was started to look at them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.claim import leased
from starforge.queue.job import LeasedJob


@dataclass(frozen=True, slots=True)
class Named:
    """A job that somebody named, and its state."""

    id: UUID
    type: str
    status: str
    worker_id: UUID | None
    reason: str | None


async def claim_these(
    conn: Connection,
    ids: Collection[UUID],
    types: Sequence[str],
    *,
    n: int,
    worker_id: UUID,
    only_due: Collection[UUID] = (),
) -> list[LeasedJob]:
    """Lease up to `n` pending jobs of these ids and types; what is paused otherwise is claimed all the same.

    Args:
        ids: The jobs; those that are not pending are left alone.
        types: What the worker knows.
        n: Most jobs.
        worker_id: Whose they become.
        only_due: Of these ids only such whose time has come; the others start before it.
    """
    rows = await conn.fetch(sql("queue", "claim_these"), list(ids), list(types), n, worker_id, list(only_due))
    failpoint("after_claim")
    return [leased(row) for row in rows]


async def these(conn: Connection, ids: Collection[UUID]) -> list[Named]:
    """Return the state of each of these jobs that exists or is in history."""
    return [Named(**row) for row in await conn.fetch(sql("queue", "these"), list(ids))]
