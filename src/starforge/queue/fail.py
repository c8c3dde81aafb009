"""Fail: jobs whose last attempt failed stay as failed and are dead letters, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.cancel import settled
from starforge.queue.job import LeasedJob


async def fail(
    conn: Connection, jobs: Sequence[LeasedJob], errors: Sequence[dict[str, Any]], *, worker_id: UUID
) -> set[UUID]:
    """Give these jobs up; return the ids that were accepted. `errors` carry at least `reason` (D-10)."""
    failpoint("before_fail")
    return await _held(conn, "fail", jobs, errors, worker_id)


async def quarantine(
    conn: Connection, jobs: Sequence[LeasedJob], errors: Sequence[dict[str, Any]], *, worker_id: UUID
) -> set[UUID]:
    """Hold these jobs back until they are released; return the ids that were accepted."""
    return await _held(conn, "quarantine", jobs, errors, worker_id)


async def _held(
    conn: Connection,
    verb: str,
    jobs: Sequence[LeasedJob],
    errors: Sequence[dict[str, Any]],
    worker_id: UUID,
) -> set[UUID]:
    rows = await conn.fetch(
        sql("queue", verb),
        [job.id for job in jobs],
        [job.lease_epoch for job in jobs],
        errors,
        worker_id,
    )
    return await settled(conn, rows)
