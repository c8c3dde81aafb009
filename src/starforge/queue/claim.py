"""Claim: ready jobs become a worker's, in batches, under its lease and a new epoch each."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.job import LeasedJob
from starforge.queue.plan import Lane


async def claim(conn: Connection, lanes: Sequence[Lane], *, n: int, worker_id: UUID) -> list[LeasedJob]:
    """Lease up to `n` ready jobs of these lanes to a worker; [] where none is ready.

    A worker whose own lease has ended gets nothing, so that a zombie cannot claim.
    """
    if not lanes:
        return []
    rows = await conn.fetch(
        sql("queue", "claim"),
        [lane.queue for lane in lanes],
        [lane.type for lane in lanes],
        [lane.priority for lane in lanes],
        n,
        worker_id,
    )
    failpoint("after_claim")
    if len(rows) > 1:
        rows.sort(key=lambda row: (-row[10], row[9]))
    return [
        LeasedJob(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9])
        for row in rows
    ]
