"""Coordinate: one process looks after each running backfill, under the lease and epoch of its row.

It counts what has ended, moves the checkpoint, gives the queue the next partitions, sets the pace, and ends the
backfill. It makes no partition itself: any worker does. Everything it writes carries its epoch, so that one that
was frozen, and followed, writes nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from starforge.backfill.checkpoint import Frontier
from starforge.backfill.eta import Estimator
from starforge.clock import monotonic_s, new_id
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.loop import wait
from starforge.queue.enqueue import enqueue_all
from starforge.queue.job import NewJob

log = structlog.get_logger("backfill")

FOLD_S = 0.2
BEAT_S = 5.0
STALE_S = 120.0
AHEAD = 4
AHEAD_S = 0.5
FOLDED_MAX = 5_000


@dataclass(slots=True)
class Held:
    """A backfill that this process coordinates."""

    id: UUID
    tenant: str
    asset: str
    job_type: str
    epoch: int
    heartbeat_at: datetime
    concurrency: int
    priority: int
    attempts_max: int
    frontier: Frontier
    estimator: Estimator
    in_flight: int = 0
    ended_s: list[float] = field(default_factory=list)

    @property
    def ahead(self) -> int:
        """How many partitions may be with the queue: what is made in half a second, or four a slot."""
        now_s = monotonic_s()
        self.ended_s = [at for at in self.ended_s if now_s - at < AHEAD_S]
        return max(AHEAD * self.concurrency, len(self.ended_s))


class Coordinator:
    """Takes backfills that nobody coordinates, and looks after them until they end or are paused."""

    def __init__(self, pool: Pool, worker_id: UUID, job_types: dict[str, str]) -> None:
        self._pool, self._worker_id, self._job_types = pool, worker_id, job_types

    async def fold(self, conn: Connection, held: Held) -> int:
        """Count what has ended since the last time."""
        rows = await conn.fetch(sql("backfill", "fold"), held.id, self._worker_id, held.epoch, FOLDED_MAX)
        held.frontier.fold([row["ordinal"] for row in rows])
        held.ended_s += [monotonic_s()] * len(rows)
        held.in_flight -= len(rows)
        return len(rows)

    async def feed(self, conn: Connection, held: Held) -> int:
        """Give the queue the next partitions, in one transaction with their rows."""
        room = held.ahead - held.in_flight
        if room <= 0:
            return 0
        ids = [new_id() for _ in range(room)]
        rows = await conn.fetch(sql("backfill", "feed"), held.id, self._worker_id, held.epoch, ids)
        await enqueue_all(conn, [self._job(held, row) for row in rows])
        held.in_flight += len(rows)
        return len(rows)

    def _job(self, held: Held, row: Any) -> NewJob:
        return NewJob(
            held.job_type,
            {"backfill_id": str(held.id), "key": row["partition_key"]},
            queue="backfill",
            priority=held.priority,
            max_attempts=held.attempts_max,
            tenant=held.tenant,
            limit_key=str(held.id),
            id=row["queue_job_id"],
        )
