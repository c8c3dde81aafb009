"""Retry: failed jobs wait for their next attempt, or are given back without having been tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.hint import CHANNEL, EVERYWHERE
from starforge.queue.job import LeasedJob


async def retry(
    conn: Connection,
    jobs: Sequence[LeasedJob],
    errors: Sequence[dict[str, Any]],
    delays_s: Sequence[float],
    *,
    worker_id: UUID,
) -> set[UUID]:
    """Make these jobs pending again after their delays; return the ids that were accepted."""
    failpoint("before_retry")
    rows = await conn.fetch(
        sql("queue", "retry"),
        [job.id for job in jobs],
        [job.lease_epoch for job in jobs],
        errors,
        delays_s,
        worker_id,
    )
    return {row[0] for row in rows}


async def give_back(conn: Connection, jobs: Sequence[LeasedJob], *, worker_id: UUID) -> set[UUID]:
    """Make jobs that were claimed but not finished pending at once; no attempt is burnt."""
    rows = await conn.fetch(
        sql("queue", "return"), [job.id for job in jobs], [job.lease_epoch for job in jobs], worker_id
    )
    if rows:
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    return {row[0] for row in rows}


async def give_back_unknown(conn: Connection, known: Sequence[UUID], *, worker_id: UUID) -> int:
    """Make the worker's jobs pending that are not among `known`; return how many.

    A claim may be committed and its answer lost, or a server may have forgotten a result that it had
    acknowledged. Such jobs are leased to a worker that lives and does not know of them: nobody else would
    run them for as long as it lives.
    """
    return len(await conn.fetch(sql("queue", "return_unknown"), known, worker_id))
