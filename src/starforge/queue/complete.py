"""Complete: finished jobs leave for history, fenced by the epoch they were claimed under."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.job import LeasedJob


async def complete(
    conn: Connection,
    jobs: Sequence[LeasedJob],
    ran_ms: Sequence[float],
    *,
    worker_id: UUID,
    results: Sequence[str | None] | None = None,
) -> set[UUID]:
    """Move these jobs to history, count them, and return the ids that were accepted.

    A job whose lease was lost is missing from the answer: its result is dropped by the caller.

    Args:
        conn: Inside a transaction or not; one statement does it all.
        jobs: As they were claimed.
        ran_ms: How long each ran.
        worker_id: Who claimed them.
        results: What each returned, as JSON; None where it returned nothing.
    """
    failpoint("before_complete")
    rows = await conn.fetch(
        sql("queue", "complete"),
        [job.id for job in jobs],
        [job.lease_epoch for job in jobs],
        ran_ms,
        results or [None] * len(jobs),
        worker_id,
    )
    failpoint("after_complete")
    return {row[0] for row in rows}
