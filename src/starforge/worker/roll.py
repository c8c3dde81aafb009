"""The roll: every worker as its registry knows it, for whoever wants to know who works and who only lives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.worker.watch import RecycleSettings

SHOWN_MAX = 200
ENDED_S = 3600.0
"""Workers that ended longer ago are not shown."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker."""

    id: UUID
    host: str
    pid: int
    version: str
    state: str
    queues: list[str]
    concurrency: int
    high_memory: bool
    rss_bytes: int | None
    memory_limit_bytes: int | None
    jobs_finished: int
    previous_id: UUID | None
    stop_reason: str | None
    started_at: datetime
    stopped_at: datetime | None
    lives: bool
    age_s: float
    heartbeat_age_s: float
    claim_age_s: float | None
    """At its last heartbeat: seconds since it had last asked for work and been answered."""

    holds: int
    """Jobs that it has claimed and not finished."""

    @property
    def stale(self) -> bool:
        """Whether it gives signs of life and does not ask for work, with room for some."""
        silent_s = self.age_s - self.heartbeat_age_s if self.claim_age_s is None else self.claim_age_s
        lazy = silent_s > RecycleSettings.read().claim_stale_s and self.holds < self.concurrency
        return self.lives and self.state == "running" and lazy


async def roll(conn: Connection, *, ended_s: float = ENDED_S) -> list[Worker]:
    """Return the living workers and those that ended within `ended_s`, at most SHOWN_MAX."""
    return [Worker(**row) for row in await conn.fetch(sql("worker", "roll"), ended_s, SHOWN_MAX)]
