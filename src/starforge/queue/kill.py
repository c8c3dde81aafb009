"""Kill: what becomes of a job that was running in a process that died, and who is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.queue.cancel import settled
from starforge.queue.declare import Retry
from starforge.queue.hint import CHANNEL, EVERYWHERE
from starforge.queue.job import LeasedJob
from starforge.settings import Settings, setting

Cause = Literal["oom", "signal", "exit", "stalled", "unknown"]


class KillSettings(Settings):
    """How many processes a job may kill."""

    kills_max: int = setting(
        3,
        env="STARFORGE_KILLS_MAX",
        unit="kills",
        meaning="A job that has killed so many worker processes is quarantined with its evidence.",
        ge=1,
        le=100,
    )
    kept_days: float = setting(
        30.0,
        env="STARFORGE_KILLS_KEPT_DAYS",
        unit="days",
        meaning="How long it is remembered which jobs were running when a process died.",
        gt=0,
    )


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended, as far as anybody knows."""

    cause: Cause
    words: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Blamed:
    """What a worker's death did to its jobs."""

    jobs: int = 0
    guilty: int = 0
    suspects: int = 0
    quarantined: int = 0
    locked: int = 0


async def blame(
    conn: Connection, worker_id: UUID, death: Death, running: Mapping[UUID, float] | None
) -> Blamed:
    """Make the jobs of a worker that was declared dead in this transaction pending; judge those that ran.

    Args:
        conn: A connection in the transaction that declared it dead: whoever comes second finds nothing.
        worker_id: The worker.
        death: How its process ended.
        running: What ran in that process, and for how many seconds; None where nobody knows.
    """
    guilty = list(running) if running and len(running) == 1 else []
    suspects = list(running) if running and len(running) > 1 else []
    most = KillSettings.read().kills_max
    row = await conn.fetchrow(
        sql("queue", "blame"),
        worker_id,
        guilty,
        suspects,
        running is None,
        most,
        # One death may be an accident; from the second on the job waits longer each time.
        [0.0, *_delays_s(most)[1:]],
        death.cause,
        death.words,
        {**death.evidence, "ran_beside": max(0, len(running or ()) - 1)},
        {str(job_id): round(ran_s, 3) for job_id, ran_s in (running or {}).items()},
    )
    assert row is not None
    jobs, guilty_jobs, suspected, quarantined, locked, asked = row
    if asked:
        # Nobody is to run them again.
        await conn.fetch(sql("queue", "cancel_asked"), asked)
    if jobs:
        # They are due since long ago: behind the watermarks of those who may run them.
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, EVERYWHERE)
    failpoint("blamed")
    return Blamed(jobs, guilty_jobs, suspected, quarantined, locked)


async def kill(conn: Connection, job: LeasedJob, death: Death, *, worker_id: UUID) -> bool:
    """Count a process of its own that the job has killed; return False when the lease was lost."""
    failpoint("before_kill")
    most = KillSettings.read().kills_max
    rows = await conn.fetch(
        sql("queue", "kill"),
        job.id,
        job.lease_epoch,
        worker_id,
        most,
        _delays_s(most),
        death.cause,
        death.words,
        death.evidence,
    )
    return bool(await settled(conn, rows))


def _delays_s(most: int) -> Sequence[float]:
    return [Retry().delay_s(kills) for kills in range(1, most + 1)]


@dataclass(frozen=True, slots=True)
class Untold:
    """A kill that the job's own type has not heard of."""

    id: UUID
    job: LeasedJob
    evidence: dict[str, Any]


async def untold(conn: Connection, types: Sequence[str]) -> Untold | None:
    """Return the oldest kill of these types that was not told, locked until the transaction ends."""
    row = await conn.fetchrow(sql("queue", "untold"), types)
    if row is None:
        return None
    job = LeasedJob(
        row["job_id"],
        row["tenant_id"],
        row["queue"],
        row["type"],
        _payload(row["payload"]),
        row["attempts"],
        row["max_attempts"],
        row["lease_epoch"],
        kills=row["kills"],
    )
    evidence = {**row["evidence"], "cause": row["cause"], "verdict": row["verdict"]}
    return Untold(row["id"], job, {**evidence, "worker_id": str(row["worker_id"])})


async def told(conn: Connection, kill_id: UUID) -> None:
    """Note that the type has heard of it."""
    await conn.execute(sql("queue", "told"), kill_id)


@dataclass(frozen=True, slots=True)
class Kill:
    """A job that was running when a process died."""

    at: datetime
    job_id: UUID
    type: str
    verdict: str
    cause: str
    exit: str | None
    ran_s: float | None
    kills: int
    """Processes that the job has killed by now."""

    status: str
    payload_bytes: int | None
    worker_id: UUID


async def kills(conn: Connection, *, since_s: float, limit: int) -> list[Kill]:
    """Return which jobs were running when processes died within this time, the newest death first."""
    return [Kill(*row) for row in await conn.fetch(sql("queue", "kills"), since_s, limit)]


async def prune_kills(conn: Connection) -> int:
    """Forget the kills of longer ago than they are kept; return how many."""
    return len(await conn.fetch(sql("queue", "prune_kills"), KillSettings.read().kept_days))


def _payload(text: str | None) -> dict[str, Any]:
    """Read a payload; {} where the job is gone or its payload cannot be read."""
    try:
        payload = msgspec.json.decode(text or "{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return payload if type(payload) is dict else {}
