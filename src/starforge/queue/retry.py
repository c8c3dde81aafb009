"""Retry: failed jobs wait for their next attempt, or are given back without having been tried."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.cancel import settled
from starforge.queue.hint import CHANNEL, EVERYWHERE
from starforge.queue.job import LeasedJob

BURNT, UNBURNT, SPARED = 1, 0, -1
"""Whether an attempt is burnt: yes; no; or no, because it was not the job's fault, but not for ever."""

SPARED_MAX = 20
"""So many times in a row an attempt that the database's absence ended is not burnt."""


async def retry(
    conn: Connection,
    jobs: Sequence[LeasedJob],
    errors: Sequence[dict[str, Any] | None],
    delays_s: Sequence[float | None],
    *,
    worker_id: UUID,
    at: Sequence[datetime | None] | None = None,
    burns: Sequence[int] | None = None,
) -> set[UUID]:
    """Make these jobs pending again after their delays; return the ids that were accepted.

    Args:
        conn: Inside a transaction.
        jobs: As they were claimed.
        errors: What goes into `last_error`; None keeps what is there.
        delays_s: Seconds from now.
        worker_id: Who claimed them.
        at: Times that win over the delays, where not None.
        burns: BURNT, UNBURNT or SPARED for each; BURNT where not given.
    """
    failpoint("before_retry")
    rows = await conn.fetch(
        sql("queue", "retry"),
        [job.id for job in jobs],
        [job.lease_epoch for job in jobs],
        errors,
        delays_s,
        at or [None] * len(jobs),
        burns or [BURNT] * len(jobs),
        worker_id,
        SPARED_MAX,
    )
    return await settled(conn, rows)


async def give_back(conn: Connection, jobs: Sequence[LeasedJob], *, worker_id: UUID) -> set[UUID]:
    """Make jobs that were claimed but not finished pending at once; no attempt is burnt."""
    rows = await conn.fetch(
        sql("queue", "return"), [job.id for job in jobs], [job.lease_epoch for job in jobs], worker_id
    )
    if rows:
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    return await settled(conn, rows)


async def give_back_unknown(conn: Connection, known: Sequence[UUID], *, worker_id: UUID) -> int:
    """Make the worker's jobs pending that are not among `known`; return how many.

    A claim may be committed and its answer lost, or a server may have forgotten a result that it had
    acknowledged. Such jobs are leased to a worker that lives and does not know of them: nobody else would
    run them for as long as it lives.
    """
    async with conn.transaction():
        rows = await conn.fetch(sql("queue", "return_unknown"), known, worker_id)
        return len(await settled(conn, rows))
